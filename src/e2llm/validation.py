"""Pydantic models for options and for files that are read back; their errors become one sentence here."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from e2llm.errors import E2LLMError

Checked = TypeVar("Checked", bound="CheckedModel")


@dataclass(frozen=True)
class Allowed:
    """The allowed values of a field in words; an annotation of the field.

    Attributes:
        words: Such as `a whole number, 0 or more`.
    """

    words: str


class CheckedModel(BaseModel):
    """Immutable values of the right types and ranges."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls: type[Checked], values: Any) -> Checked:
        """Check values by their names.

        Raises:
            E2LLMError: Says in one sentence which value is wrong and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise E2LLMError(explain(cls, error, values)) from error

    @classmethod
    def read_json(cls: type[Checked], content: str | bytes) -> Checked:
        """Check values that are stored as a JSON object; see `read`."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise E2LLMError(explain(cls, error)) from error


def explain(model: type[BaseModel], error: ValidationError, values: Any = None) -> str:
    """Return the fault of the first value that a model rejected, and what is allowed."""
    fault = error.errors(include_url=False)[0]
    own = fault.get("ctx", {}).get("error")
    if isinstance(own, ValueError):
        return str(own)
    place = ".".join(str(item) for item in fault["loc"])
    if fault["type"] == "json_invalid":  # its input is the whole file, which may have texts of people
        return str(fault["msg"])
    if fault["type"] == "missing":
        return f"{place} is missing"
    if fault["type"] == "extra_forbidden":
        return f"there is no {place}; choose from: {', '.join(model.model_fields)}"
    name = str(fault["loc"][0]) if fault["loc"] else ""
    field = model.model_fields.get(name)
    for item in field.metadata if field is not None else ():
        if isinstance(item, Allowed):
            value = fault["input"] if values is None else values[name]
            return f"{name} must be {item.words}, got {value!r}"
    return f"{place or 'it'}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, got {str(fault['input'])[:60]!r}"
