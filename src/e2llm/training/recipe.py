"""Read recipes: YAML files, resolved as `defaults < YAML < --set key=value`.

A recipe is one run, or a list of `stages` that each change some keys and start from the stage before. A run
that starts from a checkpoint takes from it what the recipe leaves out (`e2llm.training.recipes.start`).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.constructor import ConstructorError

from e2llm.errors import E2LLMError
from e2llm.training.recipes.schema import FINAL_FOLDER, Recipe
from e2llm.training.recipes.start import check_adapter, completed, start_settings


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), data: str | os.PathLike[str] | None = None
) -> list[Recipe]:
    """Read a recipe: one run per stage, in order; a recipe without stages is one run.

    Args:
        path: YAML file.
        overrides: `key.sub=value` with YAML values; they win over the file, in every stage. A number in a key
            is a place in a list. `STAGE:key.sub=value` changes one stage.
        data: Folder in which relative data paths are looked up; by default the recipe's own.

    Raises:
        FileNotFoundError: If there is no such file.
        E2LLMError: For a folder, an unknown key or stage, or a bad value; it says which are allowed.
    """
    file = Path(path)
    if file.is_dir():
        raise E2LLMError(f"{file} is a folder; give a recipe such as {file / 'recipe.yaml'}")
    if not file.is_file():
        raise FileNotFoundError(f"no such recipe: {file}")
    content = parse_yaml(file)
    stages = content.pop("stages", None) or [{}]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise E2LLMError(f"{file}: stages must be a list of mappings")
    names = [str(merge_mappings(content, stage).get("stage") or "") for stage in stages]
    check_stage_names(names, str(file))
    settings = [parse_override(override, names) for override in overrides]
    recipes: list[Recipe] = []
    for name, stage in zip(names, stages, strict=True):
        merged = merge_mappings(content, stage)
        for only_stage, keys, value in settings:
            if only_stage in (None, name):
                merged = with_value(merged, keys, value, ".".join(keys))
        own_start = [stage.get("init_from")]  # the start of the whole recipe is that of its first stage
        own_start += [value for only, keys, value in settings if (only, keys) == (name, ["init_from"])]
        if recipes and own_start[-1] is None:
            merged["init_from"] = str(recipes[-1].folder / FINAL_FOLDER)
        recipe = validate(merged, f"{file}, stage {name}" if name else str(file), recipes)
        resolve_data(recipe, file.parent if data is None else Path(data))
        recipes.append(recipe)
    return recipes


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys; YAML would drop the first value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConstructorError(
                    problem=f"the key {key.value} is repeated", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_yaml(text: str | bytes, subject: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: The text, or its bytes in UTF-8.
        subject: Name for errors.

    Raises:
        E2LLMError: If it is not valid YAML or repeats a key, with the line.
    """
    try:
        return yaml.load(text.decode("utf-8-sig") if isinstance(text, bytes) else text, _PlainLoader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # All but the first come from constructors, for a tag whose value does not fit: `!!int abc`.
        problem = " ".join(str(error).split())[:500]
        raise E2LLMError(f"{subject}: not valid YAML: {problem or type(error).__name__}") from error


def parse_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    content = load_yaml(file.read_bytes(), str(file))
    if not isinstance(content, dict):
        raise E2LLMError(f"{file}: a recipe must be a mapping, got {type(content).__name__}")
    return content


def check_stage_names(names: Sequence[str], subject: str) -> None:
    """Raise unless each of several stages has its own name, which becomes its folder."""
    if len(names) > 1 and (len(set(names)) < len(names) or not all(names)):
        raise E2LLMError(f"{subject}: each of several stages needs its own name under 'stage', got {names}")


def validate(content: dict[str, Any], subject: str, stages: Sequence[Recipe] = ()) -> Recipe:
    """Check a recipe's keys and values, and take what it leaves out from the checkpoint of `init_from`.

    Args:
        content: Nested mappings.
        subject: Name for errors.
        stages: The stages before it.

    Raises:
        E2LLMError: With every problem in one line.
    """
    start = start_settings(content, stages, subject)
    try:
        recipe = Recipe.model_validate(content if start is None else completed(content, start))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            what = "unknown key" if item["type"] == "extra_forbidden" else value_problem(item)
            problems.append(f"{key}: {what}" if key else what)
        raise E2LLMError(f"{subject}: {'; '.join(problems)}") from error
    if start is not None:
        check_adapter(recipe, start, subject)
    return recipe


def value_problem(item: Any) -> str:
    """Return the fault of a value, and the value received."""
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item["input"]
    if isinstance(given, int) and given.bit_length() > 1000:  # Python writes out no more than 4300 digits
        return f"{message}, got a number of {given.bit_length()} bits"
    return f"{message}, got {given!r}" if isinstance(given, str | int | float) else message


def merge_mappings(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested mappings with changes merged in; lists are replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_mappings(merged[key], value) if both else value
    return merged


def parse_override(override: str, stages: Sequence[str]) -> tuple[str | None, list[str], Any]:
    """Read `[stage:]key.sub=value`: the stage or None for all, the keys, the value."""
    target, equals, text = override.partition("=")
    stage, colon, key = target.rpartition(":")
    if not equals or not all(key.split(".")):
        raise E2LLMError(f"--set takes key=value or STAGE:key=value, got {override!r}")
    if colon and stage not in stages:
        known = ", ".join(filter(None, stages)) or "none"
        raise E2LLMError(f"--set {override!r}: the recipe has no stage {stage!r}; its stages: {known}")
    return (stage if colon else None), key.split("."), load_yaml(text, f"--set {override[:100]!r}")


def with_value(content: Any, keys: Sequence[str], value: Any, subject: str) -> Any:
    """Return nested mappings and lists with one value replaced."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(content, list):
        if not key.isdecimal() or int(key) >= len(content):
            raise E2LLMError(
                f"--set {subject}: {key!r} is not an index of a list of {len(content)}; count from 0"
            )
        return [
            with_value(item, rest, value, subject) if i == int(key) else item
            for i, item in enumerate(content)
        ]
    if not isinstance(content, dict | None):
        raise E2LLMError(f"--set {subject}: {key!r} is a key below {content!r}, which is not a mapping")
    changed = dict(content or {})
    changed[key] = with_value(changed.get(key), rest, value, subject)
    return changed


def resolve_data(recipe: Recipe, folder: Path) -> None:
    """Resolve relative data paths against a folder."""
    for file in [*recipe.data.train, *recipe.data.validation]:
        if not Path(file.path).is_absolute():
            file.path = os.path.abspath(folder / file.path)
