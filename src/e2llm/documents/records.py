"""Text of subtitles, tables and notebooks, by the standard library."""

import csv
import json
import re
from collections.abc import Iterator

from e2llm.documents.document import Part
from e2llm.documents.faults import damage_of
from e2llm.errors import E2LLMError
from e2llm.file_bytes import decode_text

_CUE = re.compile(r"(?:(\d+):)?(\d\d):(\d\d)[.,]\d{3}\s+-->.*")
_SPEAKER = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAG = re.compile(r"</?[a-z][^>]*>|<\d[\d:.]*>|\{\\[^}]*\}")


def read_plain(data: bytes, name: str) -> Iterator[Part]:
    """Yield a text as it is; its places are its lines."""
    yield "", decode_text(data, name)


def read_subtitles(data: bytes, name: str) -> Iterator[Part]:
    """Yield the cues of SubRip or WebVTT subtitles; a place is the time at which a cue begins."""
    found = False
    for block in re.split(r"\n\s*\n", decode_text(data, name)):
        lines = block.strip().split("\n")
        for number, line in enumerate(lines[:2]):
            if time := _CUE.match(line.strip()):
                found = True
                text = _TAG.sub("", _SPEAKER.sub(r"\1: ", "\n".join(lines[number + 1 :]))).strip()
                yield f"{int(time[1] or 0):02}:{time[2]}:{time[3]}", f"{text}\n" if text else ""
                break
    if not found:
        raise E2LLMError(
            f"{name}: no line has times such as 00:12:05,000 --> 00:12:07,500; name a text without them .txt"
        )


def read_csv(data: bytes, name: str) -> Iterator[Part]:
    """Yield the rows of a table as they are written; the first row, mostly the header, is row 1."""
    lines = decode_text(data, name).splitlines(keepends=True)
    try:
        rows, done = csv.reader(lines), 0
        for number, _ in enumerate(rows, 1):
            yield f"row {number}", "".join(lines[done : rows.line_num])
            done = rows.line_num
    except csv.Error:  # such as a cell of more than 128 KB: the rest as it is
        yield "", "".join(lines[done:])


def read_notebook(data: bytes, name: str) -> Iterator[Part]:
    """Yield the cells of a Jupyter notebook: sources and what they printed."""
    with damage_of(name, "a Jupyter notebook"):
        cells = json.loads(decode_text(data, name))["cells"]
        for number, cell in enumerate(cells, 1):
            texts = [_joined(cell["source"])]
            for output in cell.get("outputs", ()):
                texts.append(_joined(output.get("text", output.get("data", {}).get("text/plain", ""))))
            if text := "\n".join(filter(None, map(str.strip, texts))):
                yield f"cell {number}", f"{text}\n\n"


def _joined(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
