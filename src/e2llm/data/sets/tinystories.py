"""TinyStories (Eldan and Li 2023, arXiv 2305.07759): short stories in the words of a small child."""

from collections.abc import Iterator
from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.errors import E2LLMError

_SEPARATOR = "<|endoftext|>"
_SENTENCE_ENDS = (".", "!", "?", '"', "”", "'", "’")
_PARTS = {"train": "train", "validation": "valid"}


@data_set(
    "tinystories",
    description="synthetic short stories in very simple English, to restate",
    licence="CDLA-Sharing-1.0",
    home="https://huggingface.co/datasets/roneneldan/TinyStories",
    layout="a .txt file, or a folder with TinyStories-train.txt / TinyStories-valid.txt or shards of them",
    splits=("train", "validation"),
)
def tinystories(run: Conversion) -> Records:
    """Yield one text-only record per story."""
    for path in run.files(f"*{_PARTS[run.split]}*.txt"):
        run.place = str(path)
        number = 0
        for story, is_closed in _split_stories(path):
            if not story:
                continue
            if number == 0 and not is_closed:
                raise run.error(f"no {_SEPARATOR} between stories")
            number += 1
            if is_closed or story.endswith(_SENTENCE_ENDS):
                yield run.record(story, id=f"{path.stem}:{number}")
            else:
                run.skip("story cut off at the end of its file")


def _split_stories(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the stories of a file and whether a separator follows, line by line: the set has gigabytes."""
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for line in stream:
                *closed, rest = line.split(_SEPARATOR)
                for piece in closed:
                    lines.append(piece)
                    yield "".join(lines).strip(), True
                    lines = []
                lines.append(rest)
    except UnicodeDecodeError as error:
        raise E2LLMError(f"{path}: not UTF-8 ({error.reason}); use the file as published") from error
    yield "".join(lines).strip(), False
