"""Systems by name and options, as a command line gives them, and making them."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from e2llm.errors import E2LLMError
from e2llm.evaluation.kvpress_system import KvPressSystem
from e2llm.evaluation.llmlingua_system import LlmLingua2System
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

Value = str | int | float | bool

_TRUTH = {"true": True, "false": False}
_KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "some text",
}


@dataclass(frozen=True)
class SystemSpec:
    """A system with its options.

    Attributes:
        label: The text as given: its name in tables and files.
        name: Key of `SYSTEMS`.
        options: Those that were given.
        model: Another model than the others have, such as decoder weights fine-tuned on raw text; None for
            the one of the run.
    """

    label: str
    name: str
    options: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    model: str | None = None


def parse_systems(text: str) -> list[SystemSpec]:
    """Read `NAME:option=value:option=value,NAME,...`, in which every system may have a `model=FOLDER`.

    Raises:
        E2LLMError: If a name or an option is unknown or stands there twice, or a value is of the wrong kind.
    """
    specs: list[SystemSpec] = []
    for label in (part.strip() for part in text.split(",")):
        spec = _parse_system(label)
        for other in specs:
            if (other.name, other.options, other.model) == (spec.name, spec.options, spec.model):
                raise E2LLMError(
                    f"the systems {other.label!r} and {label!r} are the same; leave one of them out"
                )
        specs.append(spec)
    return specs


def create_systems(
    specs: list[SystemSpec], engine_of: Callable[[str | None], Engine], budget: int | None
) -> dict[str, System]:
    """Make systems, by label, in their order.

    Args:
        specs: What to make.
        engine_of: The engine of a model; of None that of the run. It is called once for each model.
        budget: Decoder positions for input and answer; None for the decoder's window.

    Raises:
        MissingExtraError: If a system needs a package that is not installed.
        E2LLMError: If the budget is larger than a decoder's window, models cut text into other tokens than
            the first one does, or a system cannot work with its model.
    """
    readings: dict[str | None, Readings] = {}
    systems: dict[str, System] = {}
    for spec in specs:
        if spec.model not in readings:
            engine = engine_of(spec.model)
            _check_budget(engine, budget, spec.label)
            if readings and _wording(engine) != _wording(next(iter(readings.values())).engine):
                raise E2LLMError(
                    f"the decoder of {spec.label!r} has another tokenizer or template than that of "
                    f"{specs[0].label!r}, so that a position would not mean the same; compare models of one "
                    "decoder"
                )
            readings[spec.model] = Readings(engine)
        shared = readings[spec.model]
        options: dict[str, Any] = dict(spec.options)
        systems[spec.label] = SYSTEMS[spec.name](shared.engine, shared, budget, **options)
    return systems


def _parse_system(label: str) -> SystemSpec:
    """Read one system."""
    name, *settings = (part.strip() for part in label.split(":"))
    if name not in SYSTEMS:
        raise E2LLMError(f"unknown system {name!r}; there are: {', '.join(SYSTEMS)}")
    fields = _option_fields(SYSTEMS[name])
    options: dict[str, Value] = {}
    for setting in settings:
        option, sign, value = (part.strip() for part in setting.partition("="))
        if option not in fields and option != "model":
            raise E2LLMError(
                f"{label}: unknown option {option!r}; {name} has: {', '.join([*fields, 'model'])}"
            )
        if option in options:
            raise E2LLMError(f"{label}: {option} is given twice")
        if not sign or not value:
            raise E2LLMError(f"{label}: {option} needs a value, as in {option}=...")
        options[option] = value if option == "model" else _read_value(label, fields[option], value)
    model = options.pop("model", None)
    return SystemSpec(label, name, options, None if model is None else str(model))


@dataclass(frozen=True)
class _Option:
    """What an option takes: a kind, or one of some words, and a least number; or what reads its text."""

    name: str
    kind: type
    choices: tuple[str, ...] = ()
    least: float | None = None
    parse: Callable[[str], Value] | None = None


def _option_fields(kind: type[System]) -> dict[str, _Option]:
    """Options of a class of systems: its fields after those that every system has."""
    shared = {field.name for field in dataclasses.fields(System)}
    hints = get_type_hints(kind)
    options = {}
    for field in dataclasses.fields(kind):
        if field.name in shared:
            continue
        if (parse := field.metadata.get("parse")) is not None:
            options[field.name] = _Option(field.name, str, parse=parse)
            continue
        hint = hints[field.name]
        if get_origin(hint) in (Union, UnionType):  # a kind, or None where it is not given
            (hint,) = (item for item in get_args(hint) if item is not NoneType)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        least = field.metadata.get("least")
        options[field.name] = _Option(field.name, str if choices else hint, choices, least)
    return options


def _read_value(label: str, option: _Option, text: str) -> Value:
    """The value of an option."""
    if option.parse is not None:
        try:
            return option.parse(text)
        except E2LLMError as error:
            raise E2LLMError(f"{label}: {error}") from error
    if option.choices:
        if text not in option.choices:
            raise E2LLMError(
                f"{label}: {option.name} must be one of {', '.join(option.choices)}, got {text!r}"
            )
        return text
    try:
        value: Value = _TRUTH[text.lower()] if option.kind is bool else option.kind(text)
    except (KeyError, ValueError) as error:
        raise E2LLMError(f"{label}: {option.name} must be {_KINDS[option.kind]}, got {text!r}") from error
    if option.least is not None and not isinstance(value, str) and not value >= option.least:
        raise E2LLMError(f"{label}: {option.name} must be {option.least} or more, got {text}")
    return value


def _check_budget(engine: Engine, budget: int | None, label: str) -> None:
    """Refuse a budget that the decoder cannot hold."""
    window = engine.window
    if budget is not None and (budget < 1 or (window is not None and budget > window)):
        most = "" if window is None else f" to the window of its decoder, {window}"
        raise E2LLMError(f"{label}: the budget must be from 1{most}, got {budget}")


def _wording(engine: Engine) -> tuple[Any, ...]:
    """What says how many positions a text takes: how the decoder's tokenizer cuts it, and the template."""
    tokenizer = engine.processor.tokenizer
    core = getattr(tokenizer, "backend_tokenizer", None)
    cutting = tokenizer.get_vocab() if core is None else json.loads(core.to_str())
    for state in ("padding", "truncation") if core is not None else ():
        cutting.pop(state, None)  # of the last call
    return cutting, engine.processor.template
