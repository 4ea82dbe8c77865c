"""What a server allows: sizes, times, how many at once."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from e2llm.errors import E2LLMError

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # who calls by these is on this machine
BACKEND_KEY_VARIABLE = "E2LLM_BACKEND_API_KEY"  # holds the key of the server that decodes
_ORIGIN = re.compile(r"https?://[^/\s*]+")

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Megabytes = Annotated[int, Field(ge=0)]


class ServerSettings(BaseModel):
    """Limits and places of a server.

    Attributes:
        folder: Where contexts and encoded chunks are kept; several servers may share it. None for a folder
            that ends with the process.
        model_name: The name that clients use for the model.
        api_keys: SHA-256 of the keys that are let in, in hexadecimal; empty for anyone who reaches the port.
        allowed_hosts: Names under which the server may be called; empty for any. Requests under other names
            are refused, so that a page from elsewhere cannot reach a server on this machine by its own name.
        cors_origins: Web pages elsewhere that may call the server, as `https://example.org`.
        max_body_bytes: Longest request body.
        max_documents: Most documents in a request or context.
        max_context_chars: Most characters of a context, or of all documents of a request.
        max_contexts: Most contexts of one key.
        max_new_tokens: Longest answer that may be asked for.
        max_answers: Most answers to one request (`n`, and prompts of a completion).
        max_batch: Answers decoded together.
        max_queue: Requests at work or waiting; one more gets 429.
        timeout_seconds: Longest time for a request, reading included.
        body_seconds: Time in which a request's body must arrive.
        header_seconds: Time in which a request's first line and headers must arrive.
        shutdown_seconds: Time that running requests get when the server is stopped, at least a second.
        context_memory_mb: Soft tokens of contexts kept in memory; others are fetched when asked for.
        prefix_cache_mb: Keys and values of recent prompts, so that the next question about a context is
            answered sooner; 0 for none.
        store_mb: Size of the store of encoded chunks; None for no limit.

    Raises:
        E2LLMError: If a value is out of its range or there is no such setting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    folder: Path | None = None
    model_name: str = Field("smol", min_length=1, max_length=200)
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Count = 32 * 2**20
    max_documents: Count = 64
    max_context_chars: Count = 16_000_000
    max_contexts: Count = 1000
    max_new_tokens: Count = 4096
    max_answers: Count = 8
    max_batch: Count = 16
    max_queue: Count = 64
    timeout_seconds: Seconds = 600.0
    body_seconds: Seconds = 60.0
    header_seconds: Seconds = 20.0
    shutdown_seconds: float = Field(30.0, ge=0, allow_inf_nan=False)
    context_memory_mb: Megabytes = 1024
    prefix_cache_mb: Megabytes = 512
    store_mb: Count | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error":
                raise first["ctx"]["error"] from error
            name = ".".join(map(str, first["loc"][:1]))
            raise E2LLMError(f"{name}: {first['msg']}, got {first['input']!r}") from error

    @field_validator("folder")
    @classmethod
    def _is_no_file(cls, folder: Path | None) -> Path | None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise E2LLMError(f"{folder} is a file; name the folder that is to keep contexts")
        return folder

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, origins: Any) -> Any:
        return origins.split(",") if isinstance(origins, str) else origins

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise E2LLMError(f"cors_origins takes origins such as https://example.org, got {origin!r}")
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host or set(host) & set("*/ "):
                raise E2LLMError(f"allowed_hosts takes names without port or *, got {host!r}")
        return hosts
