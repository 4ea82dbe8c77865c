"""Request bodies: read after the key was checked, and taken apart beside the event loop.

What is wrong with a body is told by its first fault. A body of a megabyte can hold hundreds of thousands of
faults, and making an error of each would take minutes; so the number of its parts is limited before anything
looks at them.
"""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from e2llm.serving.api_errors import ApiError
from e2llm.serving.server_state import ServerState

MAX_PARTS = 100_000  # numbers, texts, lists and mappings in a body
MAX_FIELDS = 64  # of one mapping

_NUMBER = re.compile(r"-?[0-9.]{1,20}")  # as a query has it

Model = TypeVar("Model", bound=BaseModel)


def json_body(*models: type[BaseModel], **more: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of an operation whose body is JSON of a model, or of one of several.

    Args:
        models: What the body may be.
        more: Schemas by other media types.
    """
    schemas = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    content = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    content |= {name: {"schema": schema} for name, schema in more.items()}
    return {"requestBody": {"required": True, "content": content}}


async def read_json(request: Request, state: ServerState, model: type[Model]) -> Model:
    """A request's JSON body as a model.

    Raises:
        ApiError: 415 for another media type, 400 for a body that is none.
    """
    kind = media_type(request)
    if kind != "application/json":
        raise ApiError(415, "send application/json", code="unsupported_media_type")
    raw = await request.body()
    return await state.admission.in_thread(lambda _: take_json(raw, model))


def media_type(request: Request) -> str:
    """What a request says its body is, in small letters and without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def take_json(raw: bytes, model: type[Model]) -> Model:
    """JSON as a model; raises `ApiError` (400) with the first fault."""
    if not raw.strip():
        raise ApiError(400, "the body is empty; send a JSON object", code="invalid_value")
    try:
        content = from_json(raw, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_value") from error
    if not isinstance(content, dict):
        raise ApiError(400, f"the body must be a JSON object, got {json_kind(content)}", code="invalid_value")
    check_parts(content)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise fault_of(error) from error


def check_parts(content: dict[str, Any]) -> None:
    """Raise `ApiError` (400) for a body of too many parts."""
    count = 0
    waiting: list[Any] = [content]
    while waiting:
        item = waiting.pop()
        children: Iterable[Any] = ()
        if isinstance(item, dict):
            if len(item) > MAX_FIELDS:
                raise ApiError(
                    400, f"a mapping has {len(item)} fields, the most is {MAX_FIELDS}", code="invalid_value"
                )
            children = item.values()
        elif isinstance(item, list):
            children = item
            count += len(item)
        if count > MAX_PARTS:
            raise ApiError(
                400, f"the body has more than {MAX_PARTS:,} parts; send less", code="invalid_value"
            )
        waiting += [child for child in children if isinstance(child, dict | list)]


def fault_of(error: ValidationError) -> ApiError:
    """What is first wrong with a request; numbers are sent back, of anything else its kind."""
    faults = error.errors(include_url=False, include_context=False)
    # Where a field takes several types there is a fault for each; the one that is not about the type fits.
    same = [item for item in faults if item["loc"][:1] == faults[0]["loc"][:1]]
    first = next((item for item in same if not item["type"].endswith("_type")), faults[0])
    place = _place(first["loc"])
    problem = field_problem(first)
    message = f"{place}: {problem}" if place else problem
    if first["type"] == "extra_forbidden":
        message = f"{place} is not known, or not supported by this server; leave it out"
    return ApiError(400, message, code="invalid_value", param=place or None)


def field_problem(fault: Any) -> str:
    """What is wrong with a field, and what was got, of one fault that pydantic found."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message if fault["type"] == "missing" else f"{message}; got {json_kind(fault['input'])}"


def json_kind(value: Any) -> str:
    """A number itself, and the kind of any other value of JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 100:  # Python writes out no more than 4300 digits
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return value if _NUMBER.fullmatch(value) else f"a text of {len(value):,} characters"
    return "a list" if isinstance(value, list) else "an object"


def _place(location: tuple[int | str, ...]) -> str:
    """Where a fault is: names of fields and places in lists, without names of the types that were tried."""
    kept = [str(item) for item in location]
    return ".".join(item for number, item in enumerate(kept) if number == 0 or _is_plain(item))


def _is_plain(item: str) -> bool:
    """Names of types are those of Python, or of classes, which begin with a capital."""
    names_type = item in ("str", "list", "int", "float", "bool") or item[:1].isupper()
    return item.isdigit() or (item.isidentifier() and not names_type)
