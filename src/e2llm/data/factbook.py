"""The World Factbook as JSON: a field of a country, looked up in the country's whole entry."""

import html
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_json, read_json_lines
from e2llm.records import Record

_QUESTIONS = (
    "What does the text give for {field} of {country}?",
    "{country}: {field}?",
    "Look up {field} for {country}.",
    "What is stated about {country} under {field}?",
)
_Field = tuple[tuple[str, ...], str]  # path of headings, text


@dataclass
class FactbookConverter(Converter):
    """One record per short field of a country; the context is all its fields, one a line.

    Attributes:
        max_answer_chars: Fields with a longer text are in the context but are not asked for.
    """

    name = "factbook"
    description = "look up one field in the whole entry of a country"
    licence = "public domain (CC0)"
    home = "https://github.com/factbook/factbook.json"
    layout = "the repository's folder with REGION/CODE.json, or *.jsonl with keys file, name, fields"

    max_answer_chars: int = 150

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        rows = [source] if source.is_file() else sorted(source.glob("*.jsonl"))
        if rows:
            for path in rows:
                yield from self._rows(path)
            return
        entries = sorted(source.glob("*/??.json"))
        if not entries:
            raise self._missing_error(source / "*" / "??.json")
        for path in entries:
            document = read_json(path)
            check_keys(document, (), str(path))
            fields = list(_walk(document, ()))
            country = _name(fields)
            if country is None:
                self.skipped["entry without a country name"] += 1
                continue
            yield from self._country(f"{path.parent.name}/{path.stem}", country, fields)

    def _rows(self, path: Path) -> Iterator[Record]:
        for number, row in read_json_lines(path, ("file", "name", "fields")):
            fields: list[_Field] = []
            for field in row["fields"]:
                check_keys(field, ("field", "text"), f"{path}:{number}")
                fields.append((_path(field["field"].split(" > ")), _tidy(field["text"])))
            yield from self._country(row["file"].removesuffix(".json"), row["name"], fields)

    def _country(self, identifier: str, country: str, fields: list[_Field]) -> Iterator[Record]:
        fields = [(path, text) for path, text in fields if text]
        context, spans = _document(country, fields)
        labels = Counter(_label(path) for path, _ in fields)
        for number, ((path, text), span) in enumerate(zip(fields, spans, strict=True), start=1):
            label = _label(path)
            if len(text) > self.max_answer_chars:
                self.skipped[f"field longer than {self.max_answer_chars} characters"] += 1
            elif "note" in path[-1]:
                self.skipped["field is a note"] += 1
            elif labels[label] > 1:
                self.skipped["field is there twice"] += 1
            else:
                name = f"{identifier}:{number}"
                question = random.Random(name).choice(_QUESTIONS).format(field=label, country=country)
                yield Record(context, question, text, evidence=(span,), id=name, source=self.name)


def _document(country: str, fields: list[_Field]) -> tuple[str, list[tuple[int, int]]]:
    """The entry under its section headings, `Area, land: 245,717 sq km` a line, and each text's span."""
    context = country
    spans: list[tuple[int, int]] = []
    section = ""
    for path, text in fields:
        if path[0] != section:
            section = path[0]
            context += f"\n\n{section}"
        context += f"\n{_label(path)}: {text}"
        spans.append((len(context) - len(text), len(context)))
    return context, spans


def _label(path: tuple[str, ...]) -> str:
    return ", ".join(path[1:] or path)


def _path(parts: list[str]) -> tuple[str, ...]:
    return tuple(part.strip() for part in parts)


def _walk(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[_Field]:
    """The fields of an entry: every `text` below its path of headings."""
    for key, value in node.items():
        if key == "text" and isinstance(value, str) and path:
            yield path, _tidy(value)
        elif isinstance(value, dict):
            yield from _walk(value, (*path, key.strip()))


def _tidy(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _name(fields: list[_Field]) -> str | None:
    names = {path[-1]: text for path, text in fields if path[1:2] == ("Country name",)}
    for key in ("conventional short form", "conventional long form"):
        if names.get(key, "none").lower() != "none":
            return names[key]
    return None
