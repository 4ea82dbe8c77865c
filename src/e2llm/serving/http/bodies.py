"""Read bodies and queries of requests after the key was checked; refuse them with the first error.

Bodies are parsed in a thread, beside the event loop. A body of a megabyte can hold hundreds of thousands of
faults, and making an error of each would take minutes; so the number of its parts is limited first.
"""

import json
import re
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from e2llm.documents import Document, read_documents
from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.preparing import to_document
from e2llm.serving.schemas import ContextIn, DocumentsIn
from e2llm.serving.state import ServerState, owner_of
from e2llm.surrogates import check_text
from e2llm.validation import Allowed

MAX_PARTS = 100_000  # numbers, texts, lists and mappings in a body
MAX_FIELDS = 64  # of one mapping
MAX_BITS = 64  # of a whole number; Python does not even print those of some thousand digits
RATE_ADVICE = "/v1/models lists the rates of this model"
_NUMBER = re.compile(r"-?[0-9.]{1,20}")  # as a query has it
_SHOWN_CHARS = 80
_UNPACKED_PER_CHAR = 16  # bytes of markup and pictures around each character of a packed file

Model = TypeVar("Model", bound=BaseModel)


def json_body(model: type[BaseModel], **more: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of an operation whose body is JSON of a model.

    Args:
        model: The model.
        more: Schemas by other media types.
    """
    schemas = {"application/json": {"$ref": f"#/components/schemas/{model.__name__}"}, **more}
    content = {name: {"schema": schema} for name, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


async def read_json_body(request: Request, state: ServerState, model: type[Model]) -> Model:
    """Return a request's JSON body as a model.

    Raises:
        ApiError: 415 for another media type, 400 for a body that does not fit.
    """
    if media_type(request) != "application/json":
        raise ApiError(415, "Content-Type must be application/json", code="unsupported_media_type")
    raw = await request.body()
    return await state.admission.in_thread(lambda _: parse_body(raw, model))


def media_type(request: Request) -> str:
    """Return the media type that a request states, in lower case and without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def parse_body(raw: bytes, model: type[Model]) -> Model:
    """Parse JSON into a model; raise `ApiError` (400) with the first error."""
    if not raw.strip():
        raise ApiError(400, "the body is empty; send a JSON object")
    try:
        text = raw.decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=_object_of, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ApiError(400, f"the body must be a JSON object, got {json_kind(content)}")
    check_parts(content)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise fault_of(model, error) from error


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; two values of one key would leave open which of them counts."""
    found = dict(pairs)
    if len(pairs) > MAX_FIELDS:
        raise ApiError(400, f"an object has {len(pairs)} fields; at most {MAX_FIELDS} are allowed")
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)[:_SHOWN_CHARS]
        raise ApiError(400, f"the body has the key {twice!r} twice in one object; give it once", param=twice)
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def check_parts(content: dict[str, Any]) -> None:
    """Raise `ApiError` (400) for a body of too many parts, too long numbers, or characters of no text."""
    count = 0
    waiting: list[tuple[str, Any]] = list(content.items())
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, list):
            count += len(item)
            if count > MAX_PARTS:
                raise ApiError(400, f"the body has more than {MAX_PARTS:,} values; send less")
            waiting += [(name, child) for child in item]
        elif isinstance(item, dict):
            waiting += [(name, child) for child in item.values()]
        elif isinstance(item, str):
            _check_text(name, item)
        elif isinstance(item, int) and item.bit_length() > MAX_BITS:
            raise ApiError(400, f"a number has {item.bit_length()} bits; at most {MAX_BITS} are allowed")


def _check_text(name: str, text: str) -> None:
    """Raise `ApiError` (400) for a text with NUL, as in files, or with half of a surrogate pair."""
    name = name[:_SHOWN_CHARS]
    try:
        check_text(text, name)
    except E2LLMError as error:
        raise ApiError(400, str(error), param=name) from error


# --- faults -------------------------------------------------------------------------------------------------


def fault_of(model: type[BaseModel], error: ValidationError) -> ApiError:
    """Return the first fault of a request as an error; of a long value it shows the length alone."""
    faults = error.errors(include_url=False)
    # A field that takes several types has a fault for each; the one that is not about the type fits.
    same = [item for item in faults if item["loc"][:1] == faults[0]["loc"][:1]]
    first = next((item for item in same if not item["type"].endswith("_type")), faults[0])
    name = str(first["loc"][0]) if first["loc"] else ""
    place = _place(first["loc"])
    field = model.model_fields.get(name)
    words = [item.words for item in (field.metadata if field else ()) if isinstance(item, Allowed)]
    own = first.get("ctx", {}).get("error")
    if first["type"] == "extra_forbidden":
        message = f"{place} is unknown, or not supported by this server; leave it out"
    elif isinstance(own, Exception):
        message = f"{place}: {own}" if len(first["loc"]) > 1 else str(own)
    elif words and len(first["loc"]) <= 2:
        message = f"{name} must be {words[0]}, got {json_kind(first['input'])}"
    else:
        message = f"{place}: {field_problem(first)}" if place else field_problem(first)
    if name == "rate":
        message += f"; {RATE_ADVICE}"
    return ApiError(400, message, param=place or None)


def field_problem(fault: Any) -> str:
    """Return the fault of a field that pydantic found, and the value received."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message if fault["type"] == "missing" else f"{message}; got {json_kind(fault['input'])}"


def json_kind(value: Any) -> str:
    """Return a number itself, and the kind of any other value of JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return value if _NUMBER.fullmatch(value) else f"a text of {len(value):,} characters"
    return "a list" if isinstance(value, list) else "an object"


def _place(location: tuple[int | str, ...]) -> str:
    """Return where a fault is: names of fields and places in lists, without the types that were tried."""
    kept = [str(item) for item in location]
    return ".".join(item for number, item in enumerate(kept) if number == 0 or _is_plain(item))


def _is_plain(item: str) -> bool:
    """Names of types are those of Python, or of classes, which begin with a capital."""
    names_type = item in ("str", "list", "int", "float", "bool") or item[:1].isupper()
    return item.isdigit() or (item.isidentifier() and not names_type)


# --- queries ------------------------------------------------------------------------------------------------


def check_query(request: Request, owner: Annotated[str, Depends(owner_of)]) -> None:
    """Refuse a query with unknown or repeated parameters; a dependency of routes, after the key.

    Raises:
        ApiError: 400, with the first such parameter and the known ones.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [field.alias for field in route.dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        shown = name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "..."
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no parameters"
            message = f"the query has {shown!r}, which is unknown (this address {takes}); leave it out"
            raise ApiError(400, message, param=shown)
        if given.count(name) > 1:
            message = f"the query has {shown!r} {given.count(name)} times; give it once"
            raise ApiError(400, message, param=shown)


_FORM = {
    "type": "object",
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "name": {"type": "string"},
        "chunk_size_chars": {"type": "integer"},
        "stream": {"type": "boolean"},
    },
    "required": ["file"],
}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is JSON or a form with files."""
    return json_body(model, **{"multipart/form-data": _FORM})


async def take_documents(
    request: Request, state: ServerState, model: type[ContextIn] | type[DocumentsIn]
) -> tuple[ContextIn | DocumentsIn, list[Document]]:
    """Return the texts to read: of JSON, or of a form's files, whose names are shown and never opened."""
    kind = media_type(request)
    if kind == "application/json":
        body = await read_json_body(request, state, model)
        if (body.text is None) == (body.documents is None):
            raise ApiError(400, "give either text or documents", param="text")
        if body.text is not None:
            return body, [Document(body.name or "text 1", body.text)]
        return body, [to_document(item, place) for place, item in enumerate(body.documents or [], 1)]
    if kind != "multipart/form-data":
        message = "send application/json, or multipart/form-data with files"
        raise ApiError(415, message, code="unsupported_media_type")
    async with request.form(max_files=1000, max_fields=100) as form:
        values = {name: value for name, value in form.items() if isinstance(value, str) and name != "file"}
        try:
            body = model.model_validate(values, strict=False)  # all values of a form are texts
        except ValidationError as error:
            raise fault_of(model, error) from error
        if body.text is not None:
            raise ApiError(400, "a form must contain files, got text; send a text as JSON", param="text")
        documents = []
        for place, item in enumerate(form.getlist("file"), 1):
            if not isinstance(item, UploadFile):
                raise ApiError(400, "file must be a file", param="file")
            name = _shown_name(item.filename) or f"file {place}"
            documents += await _read_file(await item.read(), name, state)
    return body, documents


async def _read_file(data: bytes, name: str, state: ServerState) -> list[Document]:
    """Return the text of a file and, of a message, of its attachments, read in a thread.

    Raises:
        ApiError: 415 if the server lacks the library for this format.
        E2LLMError: If the file cannot be read.
    """
    limit = max(len(data), _UNPACKED_PER_CHAR * state.settings.max_context_chars)
    try:
        return await state.admission.in_thread(lambda _: read_documents(data, name, [], limit))
    except MissingExtraError as error:
        message = f"{name}: this server cannot read the format ({error}); send text"
        raise ApiError(415, message, code="unsupported_media_type", param="file") from error


def _shown_name(name: str | None) -> str:
    """Return the last part of a file's name, without characters that do not print."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(mark for mark in last if mark.isprintable())[:200]
