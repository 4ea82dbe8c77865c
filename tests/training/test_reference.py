import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from e2llm.errors import E2LLMError
from e2llm.training.recipes.schema import Recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from recipe_reference import BEGIN, END, insert, reference, section_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"


def leaf_keys(section: type[BaseModel], prefix=""):
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            yield prefix + name, field
        else:
            yield from leaf_keys(inner, f"{prefix}{name}{'[]' if 'list[' in str(field.annotation) else ''}.")


def test_the_page_lists_every_key_with_its_meaning():
    text = DOCUMENT.read_text().split(BEGIN)[1]
    for key, field in leaf_keys(Recipe):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
        assert field.description, key
        assert " ".join(field.description.split()) in row.replace("\\|", "|")


def test_the_page_is_up_to_date():
    text = DOCUMENT.read_text()
    assert insert(text) == text, "run: python tools/recipe_reference.py docs/training.md"


def test_a_row_says_kind_range_default_and_meaning():
    assert (
        "| `train.learning_rate` | number > 0 | `0.0001` | Peak learning rate (paper: 1e-4). |" in reference()
    )
    assert "| `encoder.mode` | `frozen`, `lora`, `full` | `frozen` |" in reference()
    assert "| `data.train[].path` | text | required |" in reference()


def test_a_document_without_the_marks_is_refused():
    assert insert(f"a\n{BEGIN}\nold\n{END}\nb").endswith(f"{END}\nb")
    with pytest.raises(E2LLMError, match="lacks the line"):
        insert("a page")
