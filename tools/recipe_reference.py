"""Write the keys of a recipe as a Markdown table, from the docstrings of the schema.

    python tools/recipe_reference.py docs/training.md

writes it between the two marks in that file.
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
    """Return one table of all keys, section after section."""
    head = "| key | value | default | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(table_rows("", Recipe)) + "\n"


def table_rows(prefix: str, section: type[BaseModel]) -> list[str]:
    """Return the rows of a section's own keys, then those of the sections below it."""
    rows, below = [], []
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            is_list = get_origin(field.annotation) is list
            below += table_rows(f"{prefix}{name}{'[]' if is_list else ''}.", inner)
            continue
        meaning = " ".join((field.description or "").split())
        cells = (f"`{prefix}{name}`", value_text(field), default_text(field), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows + below


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, as an option or in a list."""
    for item in (annotation, *get_args(annotation)):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
    return None


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
        return " or ".join(kind_text(item) for item in inner if item is not type(None))
    if origin is Annotated:
        return kind_text(inner[0])
    if origin is list:
        return f"list of {kind_text(inner[0])}"
    if origin is dict:
        return f"{kind_text(inner[1])} for each of {kind_text(inner[0])}"
    names = {bool: "true or false", int: "integer", float: "number", str: "text"}
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
    """Return the document with a new table between its two marks."""
    return put_between(document, BEGIN, END, reference())


if __name__ == "__main__":
    file = Path(sys.argv[1])
    write_atomically(file, insert(file.read_text(encoding="utf-8")).encode())
