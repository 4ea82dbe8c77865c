"""Complete a recipe from the checkpoint it starts from: parts, adapter and chunking that it leaves out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2llm.errors import E2LLMError
from e2llm.model_names import is_folder_name
from e2llm.modeling.checkpoints.manifest import find_manifest, read_config, read_manifest
from e2llm.modeling.checkpoints.reporting import first_line, readable_errors
from e2llm.modeling.checkpoints.sources import find_model, resolve_source
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.console import say
from e2llm.training.recipes.schema import FINAL_FOLDER, Recipe

_ADAPTER_ATTRIBUTES = {
    "kind": "adapter",
    "finest_rate": "finest_rate",
    "max_soft_tokens": "max_soft_tokens",
}
_PARTS = ("encoder", "decoder")

Settings = dict[str, dict[str, Any]]


def start_settings(content: Mapping[str, Any], stages: Sequence[Recipe], subject: str) -> Settings | None:
    """Return the settings of the model that a recipe's `init_from` names, as sections of a recipe.

    Args:
        content: The recipe's mapping, not validated yet.
        stages: Stages before it, one of which `init_from` may name, trained or not.
        subject: Name for errors.

    Returns:
        None without `init_from`, and with a note for one that cannot be read, such as in planning.

    Raises:
        E2LLMError: If it cannot be read and the recipe leaves its decoder out.
    """
    name = content.get("init_from")
    if not isinstance(name, str):
        return None
    for stage in stages:
        if Path(name) == stage.folder / FINAL_FOLDER:
            return settings_of_stage(stage)
    try:
        return settings_of_checkpoint(name)
    except (OSError, ValueError) as error:
        problem = f"{name} cannot be read ({first_line(error)})"
        if leaves_out(content.get("decoder", {})):
            raise E2LLMError(
                f"{subject}: the decoder comes from init_from, but {problem}; give an existing checkpoint, "
                "or give decoder.source"
            ) from error
        say(f"init_from: {problem}; what the recipe leaves out has its default")
        return None


def settings_of_stage(recipe: Recipe) -> Settings:
    """Return the settings of the model that a stage will make."""
    content = recipe.model_dump()
    return {
        "encoder": {"source": content["encoder"]["source"]},
        "decoder": {key: content["decoder"][key] for key in ("source", "dtype", "quantization")},
        "adapter": {key: content["adapter"][key] for key in _ADAPTER_ATTRIBUTES},
        "chunking": content["chunking"],
    }


def settings_of_checkpoint(name: str) -> Settings:
    """Return the settings of a checkpoint without reading weights.

    The source of a part is its base if the checkpoint refers to one, else the checkpoint itself. A run that
    starts from the checkpoint reads neither, but a dry run does.

    Args:
        name: Folder, hub id or embedded name.

    Raises:
        E2LLMError: If it cannot be read, or is no E2LLM checkpoint.
    """
    if not Path(name).is_dir() and (is_folder_name(name) or Path(name).name == FINAL_FOLDER):
        raise E2LLMError("there is no such folder")
    source = find_model(name)
    with readable_errors(name):
        source, file = find_manifest(source, {})
        parts = {} if file is None else read_manifest(file).model_dump()["parts"]
        config = read_config(E2LLMForConditionalGeneration, source, {})
        processor = E2LLMProcessor.from_pretrained(name)
    settings: Settings = {
        "adapter": {key: getattr(config, attribute) for key, attribute in _ADAPTER_ATTRIBUTES.items()},
        "chunking": {
            "chunk_size_chars": processor.chunk_size_chars,
            "kind": processor.chunk_kind,
        },
    }
    for part in _PARTS:
        settings[part] = {"source": parts.get(part, {}).get("name") or name}
    settings["decoder"].update(dtype="auto", quantization="nf4" if holds_nf4(config) else "none")
    return settings


def holds_nf4(config: E2LLMConfig) -> bool:
    """Return whether a checkpoint's decoder was in 4 bits when it was saved."""
    saved: Any = getattr(config.text_config, "quantization_config", None) or {}
    settings = saved if isinstance(saved, dict) else saved.to_dict()
    return bool(settings.get("bnb_4bit_quant_type") == "nf4")


def is_checkpoint(name: str) -> bool:
    """Return whether a name is that of a local or embedded E2LLM checkpoint."""
    source = resolve_source(name)
    if not (Path(source) / "config.json").is_file():
        return False
    found, _ = E2LLMConfig.get_config_dict(source)
    return bool(found.get("model_type") == E2LLMConfig.model_type)


def leaves_out(section: Any) -> bool:
    """Return whether a section `encoder` or `decoder`, not validated yet, does not name its model."""
    return isinstance(section, dict) and section.get("source") is None


def completed(content: Mapping[str, Any], start: Settings) -> dict[str, Any]:
    """Return a recipe's mapping with missing values filled from the checkpoint it starts from.

    Args:
        content: The recipe's mapping, not validated yet; what it states stays.
        start: Of `start_settings`.
    """
    filled = dict(content)
    for name, settings in start.items():
        stated = content.get(name, {})
        if not isinstance(stated, dict):
            continue  # the schema says what is wrong with it
        if name in _PARTS:
            if not leaves_out(stated):
                continue
            stated = {key: value for key, value in stated.items() if key != "source"}
        filled[name] = {**settings, **stated}
    return filled


def check_adapter(recipe: Recipe, start: Settings, subject: str) -> None:
    """Raise `E2LLMError` if a recipe states another adapter than that of its checkpoint."""
    for key, value in start["adapter"].items():
        if (stated := getattr(recipe.adapter, key)) != value:
            raise E2LLMError(
                f"{subject}: adapter.{key} is {stated!r}, but {recipe.init_from}, where the run starts, has "
                f"{value!r}, which cannot change; leave adapter.{key} out"
            )
