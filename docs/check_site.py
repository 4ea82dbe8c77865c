"""Check the built documentation: every link leads somewhere, every public name is described.

Run by `make docs`: python docs/check_site.py site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import e2llm


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what an element links to and what it can be linked by."""
        for name, value in attributes:
            if value and name in ("href", "src"):
                self.links.append(value)
            if value and name in ("id", "name"):
                self.anchors.add(value)


def dead_links(site: Path) -> list[str]:
    """Links of a site that lead to no file or anchor of it, and scripts and styles from elsewhere."""
    pages = {file: Page(file) for file in sorted(site.rglob("*.html"))}
    dead = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or file.name == "404.html":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                dead.append(f"{file.name}: {link}")
            elif target in pages and unquote(parts.fragment) not in {"", *pages[target].anchors}:
                dead.append(f"{file.name}: {link} (no such anchor)")
    return dead


def missing_names(site: Path) -> list[str]:
    """Public names that the page of the Python API does not describe."""
    anchors = Page(site / "api.html").anchors
    ends = {anchor.rsplit(".", 1)[-1] for anchor in anchors}
    return [name for name in e2llm.__all__ if not name.startswith("__") and name not in ends]


def main(folder: str) -> int:
    """Print what is wrong; 1 if anything is."""
    site = Path(folder).resolve()
    wrong = [f"dead link: {item}" for item in dead_links(site)]
    wrong += [f"not described: {item}" for item in missing_names(site)]
    print("\n".join(wrong) or f"{folder}: every link leads somewhere, every public name is described")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
