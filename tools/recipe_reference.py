"""Write the keys of a recipe as Markdown tables, from the docstrings of the schema.

    python tools/recipe_reference.py docs/training.md

writes them between the two marks in that file.
"""

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from e2llm.files import put_between, write_atomically
from e2llm.training.recipes.schema import Recipe

BEGIN, END = (
    "<!-- keys: made by python tools/recipe_reference.py docs/training.md -->",
    "<!-- end of keys -->",
)


def reference() -> str:
    """Tables of all keys: one of the top level, then one per section."""
    tables: list[str] = []
    pending: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    while pending:
        prefix, section = pending.pop(0)
        rows, below = table_rows(prefix, section)
        pending = below + pending
        if rows:
            title = f"**`{prefix.rstrip('.')}`**: {summary(section)}\n\n" if prefix else ""
            tables.append(
                f"{title}| key | value | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)
            )
    return "\n\n".join(tables) + "\n"


def table_rows(prefix: str, section: type[BaseModel]) -> tuple[list[str], list[tuple[str, type[BaseModel]]]]:
    """The rows of a section's own keys, and the sections below it with their prefixes."""
    rows, below = [], []
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            is_list = get_origin(field.annotation) is list
            below.append((f"{prefix}{name}{'[]' if is_list else ''}.", inner))
            continue
        meaning = " ".join((field.description or "").split())
        cells = (f"`{prefix}{name}`", value_text(field), default_text(field), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows, below


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, as an option or in a list."""
    for item in (annotation, *get_args(annotation)):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
    return None


def summary(section: type[BaseModel]) -> str:
    """The first line of a section's docstring."""
    return (section.__doc__ or "").strip().splitlines()[0]


def value_text(field: FieldInfo) -> str:
    """What a key takes: a kind of value or the choices, and its range."""
    bounds = {type(item).__name__: item for item in field.metadata}
    signs = (("Ge", "ge", ">="), ("Gt", "gt", ">"), ("Le", "le", "<="), ("Lt", "lt", "<"))
    limits = [f"{sign} {getattr(bounds[kind], name):,.16g}" for kind, name, sign in signs if kind in bounds]
    return " ".join([kind_text(field.annotation), *([", ".join(limits)] if limits else [])])


def kind_text(annotation: Any) -> str:
    """The name of a kind of value, as a reader of YAML would say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{item}`" for item in inner)
    if origin in (Union, UnionType):
        return " or ".join("none" if item is type(None) else kind_text(item) for item in inner)
    if origin is Annotated:
        return kind_text(inner[0])
    if origin is list:
        return f"list of {kind_text(inner[0])}"
    if origin is dict:
        return f"{kind_text(inner[1])} for each of {kind_text(inner[0])}"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    return names.get(annotation, str(annotation))


def default_text(field: FieldInfo) -> str:
    """The default of a key."""
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if default is None or default == "":
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def insert(document: str) -> str:
    """The document with new tables between its two marks."""
    return put_between(document, BEGIN, END, reference())


if __name__ == "__main__":
    file = Path(sys.argv[1])
    write_atomically(file, insert(file.read_text(encoding="utf-8")).encode())
