"""Text of HTML and EPUB, by the standard library: lines for blocks, sections by their headings."""

import codecs
import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

from e2llm.documents.document import Part, section
from e2llm.documents.faults import damage_of
from e2llm.errors import E2LLMError
from e2llm.file_bytes import decode_text, marked_encoding

_SKIPPED = frozenset({"script", "style", "template"})
_PARAGRAPHS = frozenset(
    name
    for line in (
        "p div section article aside blockquote pre ul ol dl table figure main header footer nav form title",
        "body h1 h2 h3 h4 h5 h6",
    )
    for name in line.split()
)
_LINES = frozenset({"br", "hr", "li", "tr", "dt", "dd", "option", "figcaption", "caption"})
_HEADINGS = frozenset({"h1", "h2", "h3"})
_CHARSET = re.compile(rb"(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_CONTAINER = "META-INF/container.xml"


class _Page(HTMLParser):
    """Collects the sections of a page: heading and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[tuple[str, list[str]]] = [("", [])]
        self._skipped = self._preformatted = 0
        self._heading: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skipped += tag in _SKIPPED
        self._preformatted += tag == "pre"
        if tag in _HEADINGS:
            self.sections.append(("", []))
            self._heading = []
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        self._skipped = max(0, self._skipped - (tag in _SKIPPED))
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        if tag in _HEADINGS and self._heading is not None:
            self.sections[-1] = ("".join(self._heading).strip(), self.sections[-1][1])
            self._heading = None
        self._separate(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if tag not in _SKIPPED:
            self._separate(tag)

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._heading is not None:
            self._heading.append(data)
        if not self._preformatted:
            data = re.sub(r"\s+", " ", data)
            data = data.lstrip() if self._ends_with((" ", "\n")) else data
        if data:
            self.sections[-1][1].append(data)

    def _separate(self, tag: str) -> None:
        pieces = self.sections[-1][1]
        if tag in _PARAGRAPHS:
            pieces.append("\n\n")
        elif tag == "br" or (tag in _LINES and not self._ends_with("\n")):
            pieces.append("\n")
        elif tag in ("td", "th") and not self._ends_with((" ", "\n")):
            pieces.append(" ")

    def _ends_with(self, marks: str | tuple[str, ...]) -> bool:
        pieces = self.sections[-1][1]
        return not pieces or pieces[-1].endswith(marks)


def read_html(data: bytes, name: str) -> Iterator[Part]:
    """Yield the sections of a page; the place of a section is its heading."""
    for title, text in _sections(_decode(data, name)):
        yield (section(title) if title else ""), text


def html_text(page: str) -> str:
    """Return the text of a page."""
    return "".join(text for _, text in _sections(page)).strip()


def _sections(page: str) -> Iterator[tuple[str, str]]:
    parser = _Page()
    parser.feed(page)
    parser.close()
    for title, pieces in parser.sections:
        text = re.sub(r"[ \t]+\n", "\n", "".join(pieces))
        if text := re.sub(r"\n{3,}", "\n\n", text).strip():
            yield title, f"{text}\n\n"


def _decode(data: bytes, name: str) -> str:
    """The page in the encoding that it states, where that is no Unicode and the page is in it."""
    if not marked_encoding(data) and (stated := _CHARSET.search(data[:2048])):
        try:
            encoding = codecs.lookup(stated[1].decode()).name
            if not encoding.startswith("utf"):  # a page found by this pattern is not UTF-16, as some state
                return data.decode(encoding)
        except (LookupError, UnicodeError):
            pass
    return decode_text(data, name)


def read_epub(data: bytes, name: str) -> Iterator[Part]:
    """Yield the chapters of a book in their order; files without text are not counted."""
    with damage_of(name, "an EPUB book"), zipfile.ZipFile(io.BytesIO(data)) as book:
        chapters = [(file, book.read(file)) for file in _reading_order(book)]
        locked = book.read("META-INF/encryption.xml") if "META-INF/encryption.xml" in book.namelist() else b""
    if any(file.encode() in locked for file, _ in chapters):
        raise E2LLMError(f"{name}: the book is encrypted (DRM); give a copy without it")
    texts = (html_text(_decode(content, name)) for _, content in chapters)
    for number, text in enumerate(filter(None, texts), 1):
        yield f"chapter {number}", f"{text}\n\n"


def _reading_order(book: zipfile.ZipFile) -> list[str]:
    """Names of the files that the book's package lists in its spine."""
    container = ElementTree.fromstring(book.read(_CONTAINER))
    package_file = next(item.attrib["full-path"] for item in container.iter() if _tag(item) == "rootfile")
    package = ElementTree.fromstring(book.read(package_file))
    folder = posixpath.dirname(package_file)
    files = {
        item.attrib["id"]: posixpath.normpath(posixpath.join(folder, unquote(item.attrib["href"])))
        for item in package.iter()
        if _tag(item) == "item"
    }
    return [files[item.attrib["idref"]] for item in package.iter() if _tag(item) == "itemref"]


def _tag(element: ElementTree.Element) -> str:
    """The name of an element without its namespace."""
    return element.tag.rpartition("}")[2]
