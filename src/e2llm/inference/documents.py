"""The old place of `e2llm.documents`; its names are found here with a warning."""

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    home = importlib.import_module("e2llm.documents")
    if name.startswith("_") or not hasattr(home, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; import from e2llm.documents")
    message = f"import {name} from e2llm.documents; e2llm.inference.documents will go"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(home, name)
