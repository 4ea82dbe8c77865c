"""What all mappings of a recipe have in common."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A mapping of the recipe: unknown keys and numbers without end are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("this key is not one of true or false")  # true would count as 1
        return value

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of some keys that have another value than the default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
