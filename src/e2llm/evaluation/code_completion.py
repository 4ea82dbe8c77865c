"""Code completion in a repository: the other files are the context, the next line of one file is asked.

The task is that of RepoBench (arXiv 2306.03091) with the repository as the user has it; what is shown and
asked is chosen here. A target is the same at every length, and a shorter context is the beginning of a longer
one, so that scores at several lengths are of the same questions.
"""

import io
import random
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import e2llm
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, Task, TaskRequest
from e2llm.evaluation.stretches import first_lines
from e2llm.inference.documents import is_code, list_folder

_SHOWN_LINES = 30
_MIN_LINES_ABOVE = 5
_MIN_LINE_CHARS = 12  # of the line asked for, without its indentation
_MIN_LETTERS = 6
_MAX_CHARS_PER_TOKEN = 24  # how much is joined at most before it is cut by tokens
_MIN_LENGTH_TOKENS = 64
_MIN_FILLED_FRACTION = 0.9  # of the length that was asked for
_COMMENT_STARTS = ("#", "//", "/*", "*", "--", '"""', "'''")
_LAYOUT_TOKENS = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
)


@dataclass(frozen=True)
class SourceFile:
    """A file of the repository.

    Attributes:
        path: Within the repository, with `/` between folders.
        lines: Without line ends.
    """

    path: str
    lines: Sequence[str]

    @property
    def text(self) -> str:
        """The file below a comment with its path."""
        return "\n".join([f"# {self.path}", *self.lines, "", ""])


@dataclass(frozen=True)
class _Target:
    """The line that is asked for."""

    file: SourceFile
    place: int


class CodeCompletionTask(Task):
    """The next line of a file, given the files beside it."""

    name = "code_completion"
    description = "the next line of a source file, given the other files of its repository"
    metric = "edit_similarity"
    max_new_tokens = 48

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make `limit` items of each length.

        Raises:
            E2LLMError: If a length is below 64 tokens, or the folder holds too little code for it.
            FileNotFoundError: If there is no such folder.
        """
        if min(request.lengths) < _MIN_LENGTH_TOKENS:
            raise E2LLMError(
                f"{self.name} needs lengths of at least {_MIN_LENGTH_TOKENS} tokens, "
                f"got {min(request.lengths)}"
            )
        folder = request.code or Path(e2llm.__file__).parent
        files = read_repository(folder)
        targets = [_Target(file, place) for file in files for place in completable_lines(file)]
        if len(files) < 2 or not targets:
            raise E2LLMError(
                f"{folder} has {len(files)} file(s) of source code with {len(targets)} line(s) to complete; "
                "code completion needs at least 2 files and a line; name another folder"
            )
        return self._made(request, folder, files, targets)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Exact match and edit similarity of the prediction's first line, without the space around it."""
        from e2llm.evaluation.metrics import edit_similarity

        line, reference = first_line(prediction), item.references[0]
        return {
            "exact_match": float(line == reference),
            "edit_similarity": edit_similarity(line, reference),
        }

    def _made(
        self, request: TaskRequest, folder: Path, files: Sequence[SourceFile], targets: Sequence[_Target]
    ) -> Iterator[Item]:
        for length in request.lengths:
            for index in range(request.limit):
                rng = random.Random(f"{request.seed}/{self.name}/{index}")
                target = rng.choice(targets)
                others = [file for file in files if file is not target.file]
                rng.shuffle(others)
                yield self._item(request, folder, length, index, target, others)

    def _item(
        self,
        request: TaskRequest,
        folder: Path,
        length: int,
        index: int,
        target: _Target,
        others: Sequence[SourceFile],
    ) -> Item:
        joined = _join(others, length * _MAX_CHARS_PER_TOKEN)
        context = first_lines(joined, length, request.count_tokens)
        if context == joined and request.count_tokens(joined) < length * _MIN_FILLED_FRACTION:
            raise E2LLMError(
                f"{folder} holds {request.count_tokens(joined)} tokens of code beside "
                f"{target.file.path}, a context of {length} was asked for; name a larger folder or a "
                "shorter length"
            )
        shown = target.file.lines[max(0, target.place - _SHOWN_LINES) : target.place]
        heading = (
            f"Write the next line of the file {target.file.path}, of which these are the lines before it."
        )
        return Item(
            task=self.name,
            id=f"{length}-{index}",
            context=context.rstrip(),
            prompt="\n".join([heading, "", *shown]),
            references=(target.file.lines[target.place].strip(),),
            groups={"length_tokens": length},
        )


def read_repository(folder: Path) -> list[SourceFile]:
    """The source code of a folder, in the order of the paths; what `list_folder` leaves out is left out.

    Paths in a Python package begin with its name, as its imports do.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder of source code: {folder}")
    files = [file for file in list_folder(folder).files if is_code(file)]
    root = folder.resolve().name if (folder / "__init__.py").is_file() else ""
    return [
        SourceFile(
            (Path(root) / file.relative_to(folder)).as_posix(),
            file.read_text(encoding="utf-8-sig").replace("\t", "    ").split("\n"),
        )
        for file in files
    ]


def completable_lines(file: SourceFile) -> list[int]:
    """Indices of the lines worth asking for: code of some letters, with other lines above."""
    starts = _python_code_lines(file) if file.path.endswith((".py", ".pyi")) else range(len(file.lines))
    return [
        place for place in starts if place >= _MIN_LINES_ABOVE and _is_worth_asking(file.lines[place].strip())
    ]


def first_line(prediction: str) -> str:
    """The first line with text that is no fence of a code block, without the space around it."""
    for line in prediction.splitlines():
        if line.strip() and not line.strip().startswith("```"):
            return line.strip()
    return ""


def _is_worth_asking(line: str) -> bool:
    num_letters = sum(character.isalpha() for character in line)
    is_comment = line.startswith(_COMMENT_STARTS)
    return len(line) >= _MIN_LINE_CHARS and num_letters >= _MIN_LETTERS and not is_comment


def _python_code_lines(file: SourceFile) -> list[int]:
    """Indices of lines that begin with code: no comment, and no string or what a string goes on in."""
    lines: dict[int, int] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO("\n".join(file.lines)).readline):
            if token.type not in _LAYOUT_TOKENS:
                lines.setdefault(token.start[0], token.type)
    except (tokenize.TokenError, SyntaxError):  # not of this Python; what came before is kept
        pass
    return [line - 1 for line, kind in lines.items() if kind in (tokenize.NAME, tokenize.OP)]


def _join(files: Sequence[SourceFile], most_chars: int) -> str:
    """The files one after another, until there are enough characters."""
    pieces: list[str] = []
    num_chars = 0
    for file in files:
        if num_chars >= most_chars:
            break
        pieces.append(file.text)
        num_chars += len(pieces[-1])
    return "".join(pieces)
