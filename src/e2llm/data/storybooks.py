"""African Storybook and Pratham Books StoryWeaver: children's stories -> text-only records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2llm.data.converter import Converter
from e2llm.data.source_files import read_json_lines, read_text
from e2llm.records import Record

_FREE_LICENCES = ("CC-BY", "CC BY")


@dataclass
class StorybooksConverter(Converter):
    """One text-only record per story: the title, an empty line, then the text page by page."""

    name = "storybooks"
    description = "children's picture-book texts, to restate"
    licence = "CC BY 3.0/4.0 (per story; stories under other licences are left out)"
    home = "https://github.com/global-asp/asp-source and https://github.com/global-asp/pb-source"
    layout = "the folder with the story files (en/*.md), or *.jsonl with keys id, title, pages"

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        files = [source] if source.is_file() else sorted(source.glob("*.jsonl")) or _story_files(source)
        if not files:
            raise self._layout_error(source, "no story in this folder")
        for path in files:
            yield from self._rows(path) if path.suffix == ".jsonl" else self._markdown(path)

    def _rows(self, path: Path) -> Iterator[Record]:
        for number, row in read_json_lines(path, ("id", "title", "pages")):
            if not isinstance(row["pages"], list):
                raise self._layout_error(path, f"line {number}: 'pages' is no list")
            yield from self._story(str(row["id"]), str(row["title"]), [str(page) for page in row["pages"]])

    def _markdown(self, path: Path) -> Iterator[Record]:
        head, *pages = read_text(path).split("\n##\n")
        if not head.startswith("# ") or len(pages) < 2:
            raise self._layout_error(path, "not a story file ('# Title', then pages that start with '##')")
        credits = pages.pop()
        if not any(f"[{licence}]" in credits for licence in _FREE_LICENCES):
            self.skipped["licence other than CC BY"] += 1
            return
        yield from self._story(path.stem, head[2:].strip(), [" ".join(page.split()) for page in pages])

    def _story(self, identifier: str, title: str, pages: list[str]) -> Iterator[Record]:
        text = "\n".join(page.strip() for page in pages if page.strip())
        if not text:
            self.skipped["story without text"] += 1
            return
        yield Record(f"{title}\n\n{text}", "", "", id=identifier, source=self.name)


def _story_files(source: Path) -> list[Path]:
    """The story files below a folder: their names start with a number, unlike those of READMEs."""
    return sorted(path for path in source.rglob("*.md") if path.name[:1].isdigit())
