"""`e2llm info`: show installed libraries, the machine, and a model."""

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2llm.cli.options import AsJson
from e2llm.cli.printing import echo, print_json
from e2llm.model_names import check_model_name, embedded_models
from e2llm.prompts import NO_END

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")
_FOR_DEVELOPERS = ("dev", "docs")


def info(
    model: Annotated[
        str | None, typer.Argument(help="Model to describe too: folder, hub id, or 'smol'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show versions, extras, devices and embedded models, and describe a model if you name one.

    Example:
        e2llm info smol
    """
    if model is not None:
        check_model_name(model)
    facts = machine_facts()
    if model is not None:
        facts["model"] = model_facts(model)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            echo(f"{name}:")
            for key, item in value.items():
                echo(f"  {key}: {'unknown' if item is None else item}")
        else:
            echo(f"{name}: {value}")


def machine_facts() -> dict[str, Any]:
    """Return versions, extras and devices."""
    import torch

    from e2llm.version import __version__

    return {
        "e2llm": __version__,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "extras": extra_facts(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
        "embedded_models": embedded_models(),
    }


def extra_facts() -> dict[str, str]:
    """Return for each extra whether all its distributions are installed, or which are missing."""
    from packaging.requirements import Requirement

    try:
        extras = importlib.metadata.metadata("e2llm").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return {}
    facts = {}
    for extra in extras:
        if extra not in _FOR_DEVELOPERS:
            missing = ", ".join(missing_of(Requirement(f"e2llm[{extra}]")))
            facts[extra] = f"missing {missing}: pip install 'e2llm[{extra}]'" if missing else "installed"
    return facts


def missing_of(requirement: "Requirement") -> list[str]:
    """Return the distributions of a requirement and of its extras that are missing or of another version."""
    from packaging.requirements import Requirement

    try:
        found = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return [requirement.name]
    if not requirement.specifier.contains(found.version, prereleases=True):
        return [f"{requirement.name}{requirement.specifier}"]
    needed = [Requirement(text) for text in found.requires or []]
    return [
        name
        for extra in sorted(requirement.extras)
        for item in needed
        if item.marker is not None and item.marker.evaluate({"extra": extra})
        for name in missing_of(item)
    ]


def model_facts(name: str) -> dict[str, Any]:
    """Return parts, sizes and window of a model."""
    from e2llm.inference.engine import Engine
    from e2llm.modeling.lora import report_trainable

    engine = Engine.from_pretrained(name, device="cpu")
    model, processor, window = engine.model, engine.processor, engine.window
    counts = report_trainable(model).counts
    return {
        "name": name,
        "encoder": f"{model.config.encoder_config.model_type}, {counts['encoder'][1]:,} parameters",
        "adapter": f"{model.config.adapter}, {counts['adapter'][1]:,} parameters",
        "decoder": f"{model.config.text_config.model_type}, {counts['decoder'][1]:,} parameters",
        "bases": {part: source.name for part, source in model.part_sources.items() if source.name} or "none",
        "window": window,
        **dial_facts(engine),
        "chunk_size_chars": processor.chunk_size_chars,
        "longest_context_chars": window * processor.chunk_size_chars if window else None,
        "placeholder": processor.chunk_token,
        "answers_end_with": processor.tokenizer.decode(processor.template.after_answer) or NO_END,
    }


def dial_facts(engine: Any) -> dict[str, Any]:
    """Return the range of the model's dial, and the rates that it was trained at."""
    from e2llm.inference.dial import UNTRAINED

    config = engine.model.config
    if not engine.dial.has_rate:
        return {"max_soft_tokens": config.max_soft_tokens}
    facts: dict[str, Any] = {"finest_rate": config.finest_rate}
    if not engine.model.is_trained:
        return {**facts, "trained_on": f"nothing: {UNTRAINED}"}
    return {**facts, "trained_on": ", ".join(f"{name} ({n:,})" for name, n in config.trained_on.items())}
