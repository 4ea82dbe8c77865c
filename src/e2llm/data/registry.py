"""The data sets that `e2llm prepare` knows: each file of `e2llm.data.sets` registers its own."""

import pkgutil
from importlib import import_module

from e2llm.data import sets
from e2llm.data.data_set import DATASETS

__all__ = ["DATASETS"]

for _module in pkgutil.iter_modules(sets.__path__):
    import_module(f"{sets.__name__}.{_module.name}")
