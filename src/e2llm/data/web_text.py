"""Plain text of a page as it was downloaded: Gutenberg text files, or film scripts in HTML."""

import re
from html.parser import HTMLParser
from pathlib import Path

_IS_HTML = re.compile(r"<(!doctype html|html|head|body|pre)\b", re.IGNORECASE)
_HEAD_CHARS = 5000
_UNSHOWN = {"script", "style", "title"}
_BREAKS = {"br", "p", "div", "tr", "li", "table", "pre", "h1", "h2", "h3", "h4"}


def read_web_text(path: Path) -> str:
    """The text of a downloaded page, without tags, scripts and styles; UTF-8, else Latin-1."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _IS_HTML.search(text[:_HEAD_CHARS]):
        parser = _TextOfHtml()
        parser.feed(text)
        parser.close()
        text = "".join(parser.pieces)
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def cut_between(text: str, first_words: str, last_words: str) -> str:
    """The text from its first words to its last ones; where they are not there, it is not cut.

    Args:
        text: A text.
        first_words: How it begins, with spaces between words and punctuation; empty where that is not known.
        last_words: How it ends.
    """
    starts = _places(text, first_words)
    start = starts[0][0] if starts else 0
    ends = [end for place, end in _places(text, last_words) if place >= start]
    return text[start : ends[-1] if ends else len(text)].strip()


def _places(text: str, words: str) -> list[tuple[int, int]]:
    """Where words stand, however they are spaced."""
    pattern = r"\s*".join(re.escape(word) for word in words.split())
    return [match.span() for match in re.finditer(pattern, text)] if pattern else []


class _TextOfHtml(HTMLParser):
    """Collects the text that a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._num_unshown = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._num_unshown += tag in _UNSHOWN
        if tag in _BREAKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._num_unshown = max(0, self._num_unshown - (tag in _UNSHOWN))

    def handle_data(self, data: str) -> None:
        if not self._num_unshown:
            self.pieces.append(data)
