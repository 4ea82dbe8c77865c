"""Text of PDF, Word, PowerPoint, Excel and RTF files, by the libraries of the extra `documents`."""

import importlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from e2llm.documents.document import Part, section
from e2llm.documents.faults import damage_of
from e2llm.errors import E2LLMError, E2LLMWarning, MissingExtraError
from e2llm.messages import counted

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TEXTS = (f"{_WORD}t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t")
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_MOVED = (_FALLBACK, f"{_WORD}moveFrom")  # text that is stored elsewhere too
_ASIDE = re.compile(r"/word/(header|footer|footnote|endnote|comment|charts/chart|diagrams/data)s?\d*\.xml")
_RTF_ASIDE = re.compile(r"(?<!\\)(?:\\\*)?\\(?:footnote|(?:header|footer)[lrf]?)(?![a-z])")
_BREAKS = {f"{_WORD}tab": "\t", f"{_WORD}br": "\n", f"{_WORD}cr": "\n"}


def _library(module: str, package: str) -> Any:
    """Import a library; raises `MissingExtraError` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, "documents") from error


def _row(cells: Iterable[str]) -> str:
    """A row of a table as one line; empty where all cells are."""
    texts = [" ".join(cell.split()) for cell in cells]
    return " | ".join(texts).rstrip(" |") + "\n" if any(texts) else ""


def read_pdf(data: bytes, name: str) -> Iterator[Part]:
    """Yield the pages of a PDF file.

    Raises:
        MissingExtraError: If pypdf is not installed.
        E2LLMError: If the file is damaged or encrypted, or its pages hold no text, as in a scan.
    """
    pypdf = _library("pypdf", "pypdf")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports each blemish that it mends
    with damage_of(name, "a PDF file"):
        file = pypdf.PdfReader(io.BytesIO(data))
        if file.is_encrypted and not file.decrypt(""):
            raise E2LLMError(f"{name}: the PDF file is encrypted; save it without a password")
        count, has_text, scans = len(file.pages), False, []
        for number, page in enumerate(file.pages, 1):
            texts = [page.extract_text(), *_annotation_texts(page)]
            if text := "\n".join(filter(None, map(str.strip, texts))):
                has_text = True
                yield f"page {number}", f"{text}\n\n"
            elif page.images:
                scans.append(str(number))
    if has_text and scans:
        shown = ", ".join(scans[:5]) + (", ..." if len(scans) > 5 else "")
        warnings.warn(
            f"{name}: {len(scans)} of {count} pages have pictures and no text, as scans (page {shown}); "
            "recognize their text (OCR) to read it",
            E2LLMWarning,
            stacklevel=2,
        )
    if not has_text:
        raise E2LLMError(
            f"{name}: the PDF file has {counted(count, 'page')} and no text, as a scan; recognize its text "
            "(OCR) first"
        )


def _annotation_texts(page: Any) -> Iterator[str]:
    """Yield the values of the form fields of a page, and the texts of its comments."""
    for item in page.get("/Annots") or ():
        note = item.get_object()
        if note.get("/Subtype") == "/Widget":
            field = note if "/T" in note or "/Parent" not in note else note["/Parent"].get_object()
            value = note.get("/V", field.get("/V"))
            if isinstance(value, str) and value.strip() and value not in ("Off", "/Off"):
                yield f"{field.get('/T', 'field')}: {value.removeprefix('/')}"
        elif note.get("/Subtype") not in ("/Link", "/Popup") and isinstance(note.get("/Contents"), str):
            yield note["/Contents"]


# --- Word -------------------------------------------------------------------------------------------------


def read_docx(data: bytes, name: str) -> Iterator[Part]:
    """Yield the paragraphs and tables of a Word file, then its notes, headers and footers.

    A place is the heading above, or such as `footnote 2`.

    Raises:
        MissingExtraError: If python-docx is not installed.
        E2LLMError: If the file is damaged.
    """
    docx = _library("docx", "python-docx")
    place = ""
    with damage_of(name, "a Word file"):
        file = docx.Document(io.BytesIO(data))
        styles = {style.style_id: style.name.lower() for style in file.styles if style.name}
        for block in _children(file.element.body, "p", "tbl"):
            if block.tag == f"{_WORD}tbl":
                yield place, _table_text(block) + "\n"
            elif text := _word_text(block).strip():
                if styles.get(block.style or "", "").startswith(("heading", "title")):
                    place = section(text)
                yield place, f"{text}\n"
        seen = set()
        for part in sorted(file.part.package.iter_parts(), key=lambda part: part.partname):
            if kind := _ASIDE.fullmatch(part.partname):
                for place, text in _aside(docx.oxml.parse_xml(part.blob), kind[1]):
                    if (place, text) not in seen:  # the header of each section is stored again
                        seen.add((place, text))
                        yield place, f"{text}\n"


def _aside(root: Any, kind: str) -> Iterator[Part]:
    """Yield the text of a header, footer or drawing, or of each note or comment; separators have a type."""
    if "/" in kind:
        yield "", _drawn_text(root)
        return
    if kind in ("header", "footer"):
        yield kind, _word_text(root).strip()
        return
    notes = [item for item in root if item.get(f"{_WORD}type") is None]
    for number, note in enumerate(notes, 1):
        yield f"{kind} {number}", _word_text(note).strip()


def _children(parent: Any, *tags: str) -> Iterator[Any]:
    """Elements below a parent in their order, those within content controls included."""
    for child in parent:
        if child.tag in [_WORD + tag for tag in tags]:
            yield child
        elif child.tag in (f"{_WORD}sdt", f"{_WORD}sdtContent", f"{_WORD}ins"):
            yield from _children(child, *tags)


def _table_text(table: Any) -> str:
    return "".join(_row(map(_word_text, _children(row, "tc"))) for row in _children(table, "tr"))


def _word_text(element: Any) -> str:
    """The text of an element; a text box counts once, though it is stored twice."""
    pieces = []
    for child in element:
        if child.tag in _TEXTS:
            pieces.append(child.text or "")
        elif child.tag in _BREAKS:
            pieces.append(_BREAKS[child.tag])
        elif child.tag not in _MOVED and isinstance(child.tag, str):
            pieces.append(_word_text(child) + ("\n" if child.tag == f"{_WORD}p" else ""))
    return "".join(pieces)


# --- PowerPoint and Excel -----------------------------------------------------------------------------------


def read_pptx(data: bytes, name: str) -> Iterator[Part]:
    """Yield the slides of a PowerPoint file, each with its notes.

    Raises:
        MissingExtraError: If python-pptx is not installed.
        E2LLMError: If the file is damaged.
    """
    pptx = _library("pptx", "python-pptx")
    with damage_of(name, "a PowerPoint file"):
        for number, slide in enumerate(pptx.Presentation(io.BytesIO(data)).slides, 1):
            texts = [text for shape in slide.shapes for text in _shape_texts(shape)]
            for part in slide.part.rels.values():
                if not part.is_external and part.reltype.endswith(("/chart", "/diagramData")):
                    texts.append(_drawn_text(pptx.oxml.parse_xml(part.target_part.blob)))
            if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
                texts.append(slide.notes_slide.notes_text_frame.text)
            if text := "\n".join(filter(None, map(str.strip, texts))).replace("\v", "\n"):
                yield f"slide {number}", f"{text}\n\n"


def _drawn_text(root: Any) -> str:
    """The text of a chart, each row of its data once, or of SmartArt."""
    texts = [
        "".join(item.text or "" for item in line.iter(f"{_DRAWING}t")) for line in root.iter(f"{_DRAWING}p")
    ]
    caches = root.iter(*(f"{_CHART}{name}" for name in ("strCache", "multiLvlStrCache", "numCache")))
    texts += [_row(item.text or "" for item in cache.iter(f"{_CHART}v")).rstrip() for cache in caches]
    return "\n".join(filter(None, dict.fromkeys(texts)))


def _shape_texts(shape: Any) -> Iterator[str]:
    if hasattr(shape, "shapes"):  # a group
        for child in shape.shapes:
            yield from _shape_texts(child)
    elif shape.has_text_frame:
        yield shape.text_frame.text
    elif getattr(shape, "has_table", False):
        yield "".join(_row(cell.text for cell in row.cells) for row in shape.table.rows)


def read_xlsx(data: bytes, name: str) -> Iterator[Part]:
    """Yield the rows of an Excel file's sheets; formulas give the values last computed.

    Raises:
        MissingExtraError: If openpyxl is not installed.
        E2LLMError: If the file is damaged.
    """
    openpyxl = _library("openpyxl", "openpyxl")
    with damage_of(name, "an Excel file"):
        file = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        for sheet in file.worksheets:
            sheet.reset_dimensions()  # those stated may be wrong
            for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
                if text := _row("" if value is None else str(value) for value in row):
                    yield f"sheet {sheet.title}, row {number}", text


def read_rtf(data: bytes, name: str) -> Iterator[Part]:
    """Yield the text of a rich text file.

    Raises:
        MissingExtraError: If striprtf is not installed.
        E2LLMError: If the file is damaged.
    """
    striprtf = _library("striprtf.striprtf", "striprtf")
    with damage_of(name, "an RTF file"):
        shown = _RTF_ASIDE.sub(r"\\line ", data.decode("latin-1"))  # striprtf drops these texts
        yield "", striprtf.rtf_to_text(shown, errors="replace").strip()
