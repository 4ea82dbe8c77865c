"""Systems by name and options, as the command line names them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from e2llm.errors import E2LLMError
from e2llm.evaluation.readings import Readings
from e2llm.evaluation.streaming_window import StreamingSystem
from e2llm.evaluation.systems import (
    Bm25System,
    ClosedBookSystem,
    DenseSystem,
    FullSystem,
    HybridSystem,
    SoftSystem,
    System,
    TruncateSystem,
)
from e2llm.inference.engine import Engine

SYSTEMS: dict[str, type[System]] = {
    system.name: system
    for system in (
        SoftSystem,
        HybridSystem,
        FullSystem,
        TruncateSystem,
        Bm25System,
        DenseSystem,
        ClosedBookSystem,
        StreamingSystem,
    )
}


@dataclass(frozen=True)
class SystemSpec:
    """A system as it was asked for.

    Attributes:
        label: The text as given: its name in tables and files.
        name: Key of `SYSTEMS`.
        options: Of the system.
        model: Another model with the same tokenizer; None for the one of the run.
    """

    label: str
    name: str
    options: Mapping[str, str | int | float | bool]
    model: str | None


def parse_systems(text: str) -> list[SystemSpec]:
    """Read names such as `e2llm,hybrid:select=encoder,e2llm:soft_tokens=4:expand=2`.

    Raises:
        E2LLMError: If a system or an option does not exist; the message lists those that there are.
    """
    return [_spec(label.strip()) for label in text.split(",") if label.strip()]


def create_systems(
    specs: Sequence[SystemSpec], engine_of: Callable[[str | None], Engine], budget: int | None
) -> dict[str, System]:
    """Make systems by label; those of one engine share what it has read."""
    readings: dict[str | None, Readings] = {}
    systems: dict[str, System] = {}
    for spec in specs:
        engine = engine_of(spec.model)
        shared = readings.setdefault(spec.model, Readings(engine))
        options: dict[str, str | int | float | bool] = dict(spec.options)
        systems[spec.label] = SYSTEMS[spec.name](engine, shared, budget, **options)
    return systems


def _spec(label: str) -> SystemSpec:
    name, *parts = label.split(":")
    if name not in SYSTEMS:
        raise E2LLMError(f"unknown system {name!r}; choose from: {', '.join(SYSTEMS)}")
    known = {field.name: str(field.type) for field in fields(SYSTEMS[name])[3:]}
    options: dict[str, str | int | float | bool] = {}
    model = None
    for part in parts:
        option, equals, value = part.partition("=")
        if option == "model" and value:
            model = value
        elif not equals or option not in known:
            raise E2LLMError(f"{label}: unknown option {part!r}; {name} has: {', '.join([*known, 'model'])}")
        elif "int" in known[option]:
            if not value.isdecimal():
                raise E2LLMError(f"{label}: {option} is a whole number, got {value!r}")
            options[option] = int(value)
        else:
            options[option] = value
    return SystemSpec(label, name, options, model)
