"""Texts to read, sent as JSON or as the files of a form."""

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from e2llm.data.source_files import decode_text
from e2llm.inference.documents import Document
from e2llm.serving.answering import to_document
from e2llm.serving.http.bodies import fault_of, json_body, media_type, read_json
from e2llm.serving.http.errors import ApiError
from e2llm.serving.schemas.contexts import ContextIn, DocumentsIn
from e2llm.serving.state import ServerState

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
        body = await read_json(request, state, model)
        if (body.text is None) == (body.documents is None):
            raise ApiError(400, "give text or documents, one of them", param="text")
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
            raise ApiError(400, "a form takes files, not text; send JSON for a text", param="text")
        documents = []
        for place, item in enumerate(form.getlist("file"), 1):
            if not isinstance(item, UploadFile):
                raise ApiError(400, "file must be a file", param="file")
            name = _shown_name(item.filename) or f"file {place}"
            documents.append(Document(name, decode_text(await item.read(), name)))
    return body, documents


def _shown_name(name: str | None) -> str:
    """Return the last part of a file's name, without characters that do not print."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(mark for mark in last if mark.isprintable())[:200]
