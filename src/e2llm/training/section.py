"""What all mappings of a recipe have in common."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping of the recipe: unknown keys and numbers without end are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of some keys that have another value than the default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
