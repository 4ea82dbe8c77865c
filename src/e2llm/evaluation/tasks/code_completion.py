"""Code completion in a repository: the other files are the context, the next line of one file is asked.

The task is that of RepoBench (arXiv 2306.03091) on the Python files of this package, with our choice of
lines. A target is the same at every length, and a shorter context is the beginning of a longer one, so that
scores at several lengths are of the same questions.
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
from e2llm.evaluation.metrics import edit_similarity
from e2llm.evaluation.tasks.stretches import check_lengths, first_lines
from e2llm.messages import counted

_SHOWN_LINES = 30
_MIN_LINES_ABOVE = 5
_MIN_LINE_CHARS = 12  # of the line asked for, without its indentation
_MIN_LETTERS = 6
_MAX_CHARS_PER_TOKEN = 24  # how much is joined at most before it is cut by tokens
_MIN_FILLED_FRACTION = 0.9  # of the requested length
_LAYOUT_TOKENS = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
)


@dataclass(frozen=True)
class SourceFile:
    """A file of the repository: its path, with `/` between folders, and its lines without line ends."""

    path: str
    lines: Sequence[str]

    @property
    def text(self) -> str:
        """The file below a comment with its path."""
        return "\n".join([f"# {self.path}", *self.lines, "", ""])


class CodeCompletionTask(Task):
    """The next line of a file, given the other files."""

    name = "code_completion"
    description = "the next line of a source file, given the other files of its repository"
    metric = "edit_similarity"
    max_new_tokens = 48

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make `limit` items of each length.

        Raises:
            E2LLMError: If a length is below 64 tokens, or the folder has too little code for it.
        """
        check_lengths(self.name, request, 64)
        folder = request.code or Path(e2llm.__file__).parent
        files = read_repository(folder)
        targets = [(file, place) for file in files for place in completable_lines(file)]
        if len(files) < 2 or not targets:
            raise E2LLMError(
                f"{folder} has {counted(len(files), 'Python file')} with {counted(len(targets), 'line')} to "
                "complete; code completion needs at least 2 files and a line; name another folder"
            )
        for length in request.lengths:
            for index in range(request.limit):
                rng = random.Random(f"{request.seed}/{self.name}/{index}")
                file, place = rng.choice(targets)
                others = [other for other in files if other is not file]
                rng.shuffle(others)
                heading = (
                    f"Write the next line of the file {file.path}, of which these are the lines before it."
                )
                yield Item(
                    task=self.name,
                    id=f"{length}-{index}",
                    context=_context(request, length, file, others),
                    prompt="\n".join([heading, "", *file.lines[max(0, place - _SHOWN_LINES) : place]]),
                    references=(file.lines[place].strip(),),
                    groups={"length_tokens": length},
                )

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return exact match and edit similarity of the prediction's first line of code, stripped."""
        lines = (line.strip() for line in prediction.splitlines())
        line = next((line for line in lines if line and not line.startswith("```")), "")
        reference = item.references[0]
        return {
            "exact_match": float(line == reference),
            "edit_similarity": edit_similarity(line, reference),
        }


def _context(request: TaskRequest, length: int, file: SourceFile, others: Sequence[SourceFile]) -> str:
    """Join the other files up to a length, or raise `E2LLMError` if they are too short."""
    joined = "".join(other.text for other in others)[: length * _MAX_CHARS_PER_TOKEN]
    context = first_lines(joined, length, request.count_tokens)
    if context == joined and (found := request.count_tokens(joined)) < length * _MIN_FILLED_FRACTION:
        raise E2LLMError(
            f"there are {found} tokens of code beside {file.path}, but a context of {length} was requested; "
            "name a shorter length"
        )
    return context.rstrip()


def read_repository(folder: Path) -> list[SourceFile]:
    """Read the Python files of a folder; paths in a package begin with its name, as its imports do."""
    root = folder.resolve().name if (folder / "__init__.py").is_file() else ""
    return [
        SourceFile(
            (Path(root) / file.relative_to(folder)).as_posix(),
            file.read_text(encoding="utf-8-sig").replace("\t", "    ").split("\n"),
        )
        for file in sorted(folder.rglob("*.py"))
    ]


def completable_lines(file: SourceFile) -> list[int]:
    """Return the indices of lines to ask for: code with some letters, and other lines above.

    A line that begins in a comment or in a string is no code.
    """
    kinds: dict[int, int] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO("\n".join(file.lines)).readline):
            if token.type not in _LAYOUT_TOKENS:
                kinds.setdefault(token.start[0] - 1, token.type)
    except (tokenize.TokenError, SyntaxError):  # not of this Python; the lines before it are kept
        pass
    return [
        place
        for place, kind in kinds.items()
        if kind in (tokenize.NAME, tokenize.OP)
        and place >= _MIN_LINES_ABOVE
        and len(file.lines[place].strip()) >= _MIN_LINE_CHARS
        and sum(map(str.isalpha, file.lines[place])) >= _MIN_LETTERS
    ]
