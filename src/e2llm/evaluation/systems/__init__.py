"""The systems by name, read from a line such as `e2llm:soft_tokens=4,bm25`, and made."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from e2llm.errors import E2LLMError
from e2llm.evaluation.systems.base import Readings, System, View, raw_view
from e2llm.evaluation.systems.cache import KvPressSystem, StreamingSystem
from e2llm.evaluation.systems.compared import (
    Bm25System,
    ClosedBookSystem,
    DenseSystem,
    FullSystem,
    HybridSystem,
    PassageSystem,
    SoftSystem,
    TruncateSystem,
)
from e2llm.evaluation.systems.llmlingua import LlmLingua2System
from e2llm.inference.engine import Engine
from e2llm.validation import explain

__all__ = [
    "SYSTEMS",
    "PassageSystem",
    "SoftSystem",
    "System",
    "SystemSpec",
    "View",
    "create_systems",
    "parse_systems",
    "raw_view",
]

SYSTEMS: dict[str, type[System]] = {
    kind.name: kind
    for kind in (
        SoftSystem,
        HybridSystem,
        FullSystem,
        TruncateSystem,
        Bm25System,
        DenseSystem,
        ClosedBookSystem,
        StreamingSystem,
        LlmLingua2System,
        KvPressSystem,
    )
}


@dataclass(frozen=True)
class SystemSpec:
    """A system with its options.

    Attributes:
        label: The text as given: the system's name in tables and files.
        name: Key of `SYSTEMS`.
        options: Options by name, those that were given.
        model: A model other than the run's, such as one fine-tuned on raw text; None for the run's.
    """

    label: str
    name: str
    options: dict[str, Any]
    model: str | None = None


def parse_systems(text: str) -> list[SystemSpec]:
    """Read `NAME:option=value:option=value,NAME,...`; every system takes `model=FOLDER`, too.

    Raises:
        E2LLMError: If a name or an option is unknown, or a value is out of range.
    """
    return [_parse_system(label.strip()) for label in text.split(",")]


def create_systems(
    specs: Sequence[SystemSpec], engine_of: Callable[[str | None], Engine], budget: int | None
) -> dict[str, System]:
    """Make systems by label, in their order.

    Args:
        specs: Systems to make.
        engine_of: Returns the engine of a model; of None, that of the run. It is called once per model.
        budget: Decoder positions for input and answer; None for the decoder's window.

    Raises:
        MissingExtraError: If a system needs a package that is not installed.
        E2LLMError: If the budget is larger than a decoder's window, models have different decoder tokenizers
            or templates, or a system cannot work with its model.
    """
    readings: dict[str | None, Readings] = {}
    systems: dict[str, System] = {}
    for spec in specs:
        if spec.model not in readings:
            engine = engine_of(spec.model)
            window = engine.window
            if budget is not None and window is not None and budget > window:
                raise E2LLMError(
                    f"{spec.label}: a budget of {budget:,} positions is more than the decoder's window of "
                    f"{window:,}; lower --budget"
                )
            if readings and _wording(engine) != _wording(next(iter(readings.values())).engine):
                raise E2LLMError(
                    f"the decoder of {spec.label!r} has another tokenizer or template than that of "
                    f"{specs[0].label!r}, so positions would not be comparable; compare models of one decoder"
                )
            readings[spec.model] = Readings(engine)
        shared = readings[spec.model]
        systems[spec.label] = SYSTEMS[spec.name](shared.engine, shared, budget, **spec.options)
    return systems


def _parse_system(label: str) -> SystemSpec:
    name, *settings = (part.strip() for part in label.split(":"))
    if name not in SYSTEMS:
        raise E2LLMError(f"unknown system {name!r}; choose from: {', '.join(SYSTEMS)}")
    model = _options_model(SYSTEMS[name])
    try:
        found = model.model_validate(dict(setting.split("=", 1) for setting in settings))
    except ValidationError as error:
        raise E2LLMError(f"{label}: {explain(model, error)}") from error
    except ValueError as error:
        raise E2LLMError(f"{label}: give options as option=value") from error
    options = found.model_dump(exclude_unset=True)
    return SystemSpec(label, name, options, options.pop("model", None))


def _options_model(kind: type[System]) -> type[BaseModel]:
    """Return a pydantic model of a system's options: its fields after those that every system has."""
    hints = get_type_hints(kind, include_extras=True)
    shared = {field.name for field in fields(System)}
    options: dict[str, Any] = {
        field.name: (hints[field.name], field.default) for field in fields(kind) if field.name not in shared
    }
    return create_model(
        kind.__name__, __config__=ConfigDict(extra="forbid"), **options, model=(str | None, None)
    )


def _wording(engine: Engine) -> tuple[Any, ...]:
    """Return what decides how many positions a text takes: the decoder's tokenizer and the template."""
    tokenizer = engine.processor.tokenizer
    core = getattr(tokenizer, "backend_tokenizer", None)
    cutting = tokenizer.get_vocab() if core is None else json.loads(core.to_str())
    for state in ("padding", "truncation") if core is not None else ():
        cutting.pop(state, None)  # of the last call
    return cutting, engine.processor.template
