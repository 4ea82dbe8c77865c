"""What a run was made with, saved beside its outputs, and what has changed since."""

import importlib.metadata
import json
import os
from typing import Any

import torch
import yaml

from e2llm.files import write_atomically
from e2llm.training.arguments import resolve_precision
from e2llm.training.recipe import load_yaml
from e2llm.training.schema import Recipe
from e2llm.version import __version__, git_commit

RECIPE_NAME = "recipe.yaml"


def write_provenance(recipe: Recipe) -> None:
    """Save the resolved recipe and what it ran with, beside the outputs."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(without_none(portable(recipe)), sort_keys=False, allow_unicode=True)
    write_atomically(recipe.folder / RECIPE_NAME, resolved.encode())
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")
    }
    facts = {
        "e2llm": __version__,
        **versions,
        "commit": git_commit(),
        "seed": recipe.seed,
        "precision": resolve_precision(recipe.train.precision),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
    }
    write_atomically(recipe.folder / "provenance.json", (json.dumps(facts, indent=2) + "\n").encode())


def portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe with data paths relative to its folder, as the saved recipe is read again."""
    content = recipe.model_dump()
    for file in [*content["data"]["train"], *content["data"]["validation"]]:
        file["path"] = os.path.relpath(file["path"], recipe.folder)
    return content


def changes_since_start(recipe: Recipe) -> list[str]:
    """Keys in which the recipe differs from the one that its folder was begun with: `key: before -> now`.

    Raises:
        E2LLMError: If the saved recipe is damaged, with its name.
    """
    file = recipe.folder / RECIPE_NAME
    if not file.is_file():
        return []
    before, now = flattened(load_yaml(file.read_bytes(), str(file))), flattened(portable(recipe))
    # Other keys that are gone are those of older versions.
    keys = [*now, *(key for key in before if key not in now and key.endswith(".path"))]
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def without_none(content: dict[str, Any]) -> dict[str, Any]:
    """Return nested mappings without the keys whose value is None."""
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value is not None
    }


def flattened(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of dotted keys."""
    if isinstance(content, list) and any(isinstance(item, dict) for item in content):
        content = {str(index): item for index, item in enumerate(content)}
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(flattened(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
