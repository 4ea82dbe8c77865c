"""African Storybook and Pratham Books StoryWeaver: children's stories -> text-only records."""

from collections.abc import Iterator
from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set

_FREE_LICENCES = ("[CC-BY]", "[CC BY]")


@data_set(
    "storybooks",
    description="children's picture-book texts, to restate",
    licence="CC BY 3.0/4.0 (per story; stories under other licences are left out)",
    home="https://github.com/global-asp/asp-source and https://github.com/global-asp/pb-source",
    layout="the folder with the story files (en/*.md), or *.jsonl with keys id, title, pages",
)
def storybooks(run: Conversion) -> Records:
    """Yield one text-only record per story: the title, an empty line, then the text page by page."""
    for path in run.files("*.jsonl", "**/[0-9]*.md"):
        for identifier, title, pages in _stories(run, path):
            text = "\n".join(page.strip() for page in pages if page.strip())
            if text:
                yield run.record(f"{title}\n\n{text}", id=identifier)
            else:
                run.skip("story without text")


def _stories(run: Conversion, path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the id, the title and the pages of each story in a file."""
    if path.suffix == ".jsonl":
        yield from ((str(row["id"]), row["title"], row["pages"]) for _, row in run.lines(path))
        return
    head, *pages = run.text(path).split("\n##\n")
    if not head.startswith("# ") or len(pages) < 2:
        raise run.error("not a story file ('# Title', then pages that start with '##')")
    if any(licence in pages[-1] for licence in _FREE_LICENCES):
        yield path.stem, head[2:].strip(), [" ".join(page.split()) for page in pages[:-1]]
    else:
        run.skip("licence other than CC BY")
