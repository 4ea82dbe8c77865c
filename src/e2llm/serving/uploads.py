"""Texts that come as JSON or as the files of a form."""

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from e2llm.data.source_files import decode_text
from e2llm.errors import E2LLMError
from e2llm.inference.documents import Document
from e2llm.serving.answering import to_document
from e2llm.serving.api_errors import ApiError
from e2llm.serving.bodies import fault_of, json_body, media_type, read_json
from e2llm.serving.context_schemas import ContextIn, DocumentsIn
from e2llm.serving.server_state import ServerState

_MOST_DIGITS = 10  # Python reads numbers of some thousands only
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
    """The OpenAPI description of a body that is JSON or a form with files."""
    return json_body(model, **{"multipart/form-data": _FORM})


async def take_documents(
    request: Request, state: ServerState, model: type[ContextIn] | type[DocumentsIn]
) -> tuple[ContextIn | DocumentsIn, list[Document]]:
    """What is to be read: JSON, or files of a form; of files, only bytes and a name to show are used."""
    kind = media_type(request)
    if kind == "application/json":
        body = await read_json(request, state, model)
        if (body.text is None) == (body.documents is None):
            raise ApiError(400, "give text or documents, one of them", code="invalid_value", param="text")
        if body.text is not None:
            return body, [Document(body.name or "text 1", body.text)]
        return body, [to_document(item, place) for place, item in enumerate(body.documents or [], 1)]
    if kind != "multipart/form-data":
        raise ApiError(
            415,
            "send application/json, or multipart/form-data with files",
            code="unsupported_media_type",
        )
    async with request.form(max_files=1000, max_fields=100) as form:
        values = {name: value for name, value in form.items() if isinstance(value, str) and name != "file"}
        if isinstance(chosen := values.get("stream"), str):
            values["stream"] = {"true": True, "false": False}.get(chosen.lower(), chosen)  # type: ignore[assignment]
        size = values.get("chunk_size_chars", "")
        if size.isdecimal() and len(size) < _MOST_DIGITS:  # else the schema says what is wrong with it
            values["chunk_size_chars"] = int(size)  # type: ignore[assignment]
        body = take_fields(values, model)
        if body.text is not None or body.documents is not None:
            raise ApiError(400, "a form holds files, not text; send JSON for a text", code="invalid_value")
        documents = []
        for place, item in enumerate(form.getlist("file"), 1):
            if not isinstance(item, UploadFile):
                raise ApiError(400, "file must be a file", code="invalid_value", param="file")
            name = _shown_name(item.filename) or f"file {place}"
            documents.append(Document(name, _decoded(await item.read(), name)))
    return body, documents


def take_fields(
    values: dict[str, Any], model: type[ContextIn] | type[DocumentsIn]
) -> ContextIn | DocumentsIn:
    """The fields of a form as a model; raises `ApiError` (400) with the first fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise fault_of(error) from error


def _shown_name(name: str | None) -> str:
    """The last part of a file's name, without characters that do not print."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(mark for mark in last if mark.isprintable())[:200]


def _decoded(data: bytes, name: str) -> str:
    try:
        return decode_text(data, name)
    except E2LLMError as error:
        raise ApiError(400, str(error), code="invalid_value", param="file") from error
