"""Text of subtitles, tables and notebooks, by the standard library."""

import csv
import json
import re
from collections.abc import Iterator

from e2llm.documents.document import Part
from e2llm.documents.faults import damage_of
from e2llm.errors import E2LLMError
from e2llm.file_bytes import decode_text

_CUE = re.compile(r"(?:(\d+):)?(\d\d?):(\d\d?)[.,]\d{1,3}\s+-->.*")
_NOTES = re.compile(r"(?<=\n\n)(?:NOTE|STYLE|REGION)\b.*(?:\n.+)*")
_SPEAKER = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAG = re.compile(r"</?[a-z][^>]*>|<\d[\d:.]*>|\{\\[^}]*\}")


def read_plain(data: bytes, name: str) -> Iterator[Part]:
    """Yield a text as it is; its places are its lines."""
    yield "", decode_text(data, name)


def read_subtitles(data: bytes, name: str) -> Iterator[Part]:
    """Yield the cues of SubRip or WebVTT subtitles; a place is the time at which a cue begins."""
    text = decode_text(data, name)
    lines = (_NOTES.sub("", text) if text.startswith("WEBVTT") else text).split("\n")
    times = {index: time for index, line in enumerate(lines) if (time := _CUE.match(line.strip()))}
    if not times:
        raise E2LLMError(
            f"{name}: no line has times such as 00:12:05,000 --> 00:12:07,500; name a text without them .txt"
        )
    for (start, time), end in zip(times.items(), [*[*times][1:], len(lines)], strict=True):
        if end < len(lines) and end - 2 > start and lines[end - 1].strip() and not lines[end - 2].strip():
            end -= 1  # the number or name of the next cue
        cue = "\n".join(filter(str.strip, lines[start + 1 : end]))
        cue = _TAG.sub("", _SPEAKER.sub(r"\1: ", cue)).strip()
        hours, minutes, seconds = (int(item or 0) for item in time.groups())
        yield f"{hours:02}:{minutes:02}:{seconds:02}", f"{cue}\n" if cue else ""


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
        notebook = json.loads(decode_text(data, name))
        sheets = [notebook] if "cells" in notebook else notebook["worksheets"]  # before 2014
        for number, cell in enumerate((cell for sheet in sheets for cell in sheet["cells"]), 1):
            texts = [_joined(cell["source"] if "source" in cell else cell["input"])]
            for output in cell.get("outputs", ()):
                texts.append(_joined(output.get("text", output.get("data", {}).get("text/plain", ""))))
                if "evalue" in output:
                    texts.append(f"{output['ename']}: {output['evalue']}")
            if text := "\n".join(filter(None, map(str.strip, texts))):
                yield f"cell {number}", f"{text}\n\n"


def _joined(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
