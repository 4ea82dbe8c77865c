"""The limits of a server: sizes, times, numbers."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from e2llm.errors import E2LLMError
from e2llm.validation import Allowed, explain

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # names of this machine for itself
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
BACKEND_KEY_VARIABLE = "E2LLM_BACKEND_API_KEY"  # holds the key of the server that decodes


def _split(value: Any) -> Any:
    """Split a list as the command line has it, with commas between its items."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _as_browsers_send(origin: str) -> str:
    """Return an origin as it is in the header `Origin`; an empty text for a host that cannot exist."""
    origin = origin.removesuffix("/")
    scheme = origin.partition("://")[0].lower()
    if scheme not in _DEFAULT_PORTS:
        return origin  # browsers change nothing in the host of other schemes
    host = origin.lower().removesuffix(_DEFAULT_PORTS[scheme]).removeprefix(f"{scheme}://")
    try:
        return f"{scheme}://{host if host.isascii() else host.encode('idna').decode()}"
    except UnicodeError:
        return ""


Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Megabytes = Annotated[int, Field(ge=0)]
Hosts = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^*/ ]+$")], ...],
    BeforeValidator(_split),
    Allowed("names without a port or *"),
]
_Origin = Annotated[
    str,
    BeforeValidator(lambda value: _as_browsers_send(value) if isinstance(value, str) else value),
    Field(pattern=r"^[a-z][a-z0-9+.-]*://[^/\s*@]+$"),
]
Origins = Annotated[
    tuple[_Origin, ...],
    BeforeValidator(_split),
    Allowed(
        "origins such as https://example.org or app://obsidian.md, without a user or path (pages of file:// "
        "name no origin)"
    ),
]


class ServerSettings(BaseModel):
    """Limits and places of a server.

    Attributes:
        folder: Keeps contexts and encoded chunks; several servers may share it. None for a folder that ends
            with the process.
        model_name: The name that clients use for the model.
        api_keys: SHA-256 of the keys that are let in, in hexadecimal; empty for anyone.
        allowed_hosts: Names under which the server may be called; empty for any. Requests under other names
            are refused, so that a page from elsewhere cannot reach a server on this machine by its own name.
        cors_origins: Web pages elsewhere that may call the server: `https://example.org`, or with the scheme
            of an app or of a browser extension.
        max_body_bytes: Longest request body.
        max_documents: Most documents in a request or context.
        max_context_chars: Most characters of a context, or of all documents of a request.
        max_contexts: Most contexts of one key.
        max_new_tokens: Longest answer that may be requested.
        max_answers: Most answers to one request (`n`, and prompts of a completion).
        max_batch: Answers decoded together.
        max_queue: Requests running or waiting; one more gets 429.
        timeout_seconds: Longest time for a request, reading included.
        body_seconds: Time in which a request's body must arrive.
        header_seconds: Time in which a request's first line and headers must arrive.
        shutdown_seconds: Time for running requests when the server is stopped; then they get an error.
        context_memory_mb: Soft tokens of contexts kept in memory; others are fetched when needed.
        prefix_cache_mb: Keys and values of recent prompts, which speed up the next question about a context;
            0 for none.
        store_mb: Size of the store of encoded chunks; None for no limit.

    Raises:
        E2LLMError: If a value is out of range or a setting is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    folder: Path | None = None
    model_name: str = Field("smol", min_length=1, max_length=200)
    api_keys: tuple[str, ...] = ()
    allowed_hosts: Hosts = ()
    cors_origins: Origins = ()
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
            raise E2LLMError(explain(type(self), error)) from error

    @field_validator("folder")
    @classmethod
    def _check_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise E2LLMError(f"{folder} is a file; name a folder for contexts")
        return folder
