"""The World Factbook as JSON: a field of a country, looked up in the country's whole entry."""

import html
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2llm.data.data_set import Conversion, Records, data_set

_QUESTIONS = (
    "What does the text give for {field} of {country}?",
    "{country}: {field}?",
    "Look up {field} for {country}.",
    "What is stated about {country} under {field}?",
)
_MAX_ANSWER_CHARS = 150  # no question asks for a longer field
_Field = tuple[tuple[str, ...], str]  # path of headings, text


@data_set(
    "factbook",
    description="look up one field in the whole entry of a country",
    licence="public domain (CC0)",
    home="https://github.com/factbook/factbook.json",
    layout="the repository's folder with REGION/CODE.json, or *.jsonl with keys file, name, fields",
)
def factbook(run: Conversion) -> Records:
    """Yield one record per short field of a country; the context is all its fields, one a line."""
    for path in run.files("*.jsonl", "*/??.json"):
        for identifier, country, fields in _countries(run, path):
            context, spans = _document(country, fields)
            labels = Counter(_label(headings) for headings, _ in fields)
            for number, ((headings, text), span) in enumerate(zip(fields, spans, strict=True), start=1):
                label = _label(headings)
                if len(text) > _MAX_ANSWER_CHARS:
                    run.skip(f"field longer than {_MAX_ANSWER_CHARS} characters")
                elif "note" in headings[-1]:
                    run.skip("field is a note")
                elif labels[label] > 1:
                    run.skip("field has the same name as another")
                else:
                    name = f"{identifier}:{number}"
                    question = random.Random(name).choice(_QUESTIONS).format(field=label, country=country)
                    yield run.record(context, question, text, evidence=(span,), id=name)


def _countries(run: Conversion, path: Path) -> Iterator[tuple[str, str, list[_Field]]]:
    """Yield the id, the name and the fields with text of each country in a file."""
    if path.suffix == ".jsonl":
        for _, row in run.lines(path):
            fields = [
                (tuple(part.strip() for part in field["field"].split(" > ")), _tidy(field["text"]))
                for field in row["fields"]
            ]
            name = row["file"].removesuffix(".json")
            yield name, row["name"], [(headings, text) for headings, text in fields if text]
        return
    fields = list(_walk(run.json(path), ()))
    country = _name(fields)
    if country is None:
        run.skip("entry without a country name")
        return
    yield f"{path.parent.name}/{path.stem}", country, [(headings, text) for headings, text in fields if text]


def _document(country: str, fields: list[_Field]) -> tuple[str, list[tuple[int, int]]]:
    """Return the entry under its headings, `Area, land: 245,717 sq km` a line, and each text's span."""
    context, section = country, ""
    spans: list[tuple[int, int]] = []
    for headings, text in fields:
        if headings[0] != section:
            section = headings[0]
            context += f"\n\n{section}"
        context += f"\n{_label(headings)}: {text}"
        spans.append((len(context) - len(text), len(context)))
    return context, spans


def _label(headings: tuple[str, ...]) -> str:
    return ", ".join(headings[1:] or headings)


def _walk(node: dict[str, Any], headings: tuple[str, ...]) -> Iterator[_Field]:
    """Yield the fields of an entry: every `text` below its headings."""
    for key, value in node.items():
        if key == "text" and isinstance(value, str) and headings:
            yield headings, _tidy(value)
        elif isinstance(value, dict):
            yield from _walk(value, (*headings, key.strip()))


def _tidy(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _name(fields: list[_Field]) -> str | None:
    names = {headings[-1]: text for headings, text in fields if headings[1:2] == ("Country name",)}
    for key in ("conventional short form", "conventional long form"):
        if names.get(key, "none").lower() != "none":
            return names[key]
    return None
