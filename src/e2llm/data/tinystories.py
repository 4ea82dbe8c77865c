"""TinyStories: short stories in the words of a small child -> text-only records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2llm.data.converter import Converter
from e2llm.errors import E2LLMError
from e2llm.records import Record

_SEPARATOR = "<|endoftext|>"
_SENTENCE_ENDS = (".", "!", "?", '"', "”", "'", "’")
_NAME_PARTS = {"train": "train", "validation": "valid"}


@dataclass
class TinyStoriesConverter(Converter):
    """One text-only record per story (Eldan and Li 2023, arXiv 2305.07759)."""

    name = "tinystories"
    description = "synthetic short stories in very simple English, to restate"
    licence = "CDLA-Sharing-1.0"
    home = "https://huggingface.co/datasets/roneneldan/TinyStories"
    layout = "a .txt file, or a folder with TinyStories-train.txt / TinyStories-valid.txt or shards of them"
    splits = ("train", "validation")

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        if source.is_file():
            files = [source]
        else:
            part = _NAME_PARTS[split]
            files = sorted(path for path in source.glob("*.txt") if part in path.name.lower())
            if not files:
                raise self._missing_error(source / f"*{part}*.txt")
        for path in files:
            yield from self._stories(path)

    def _stories(self, path: Path) -> Iterator[Record]:
        number = 0
        for story, is_closed in _split_stories(path):
            if not story:
                continue
            if number == 0 and not is_closed:
                raise self._layout_error(path, f"no {_SEPARATOR} between stories")
            number += 1
            if not is_closed and not story.endswith(_SENTENCE_ENDS):
                self.skipped["story cut off at the end of its file"] += 1
                continue
            yield Record(story, "", "", id=f"{path.stem}:{number}", source=self.name)


def _split_stories(path: Path) -> Iterator[tuple[str, bool]]:
    """The stories of a file and whether a separator follows, line by line: the whole set has gigabytes."""
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
        raise E2LLMError(f"{path}: not UTF-8 ({error.reason}); take the file as published") from error
    yield "".join(lines).strip(), False
