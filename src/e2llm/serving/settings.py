"""What a server allows: sizes, times, how many at once."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from e2llm.errors import E2LLMError

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # who calls by these is on this machine
BACKEND_KEY_VARIABLE = "E2LLM_BACKEND_API_KEY"  # holds the key of the server that decodes
_ORIGIN = re.compile(r"https?://[^/\s*]+")
_MAY_BE_ZERO = ("shutdown_seconds", "context_memory_mb", "prefix_cache_mb")


@dataclass(frozen=True)
class ServerSettings:
    """Limits and places of a server.

    Attributes:
        folder: Where contexts and encoded chunks are kept; several servers may share it. None for a folder
            that goes with the process.
        model_name: The name that clients use for the model.
        api_keys: SHA-256 of the keys that are let in, in hexadecimal; empty for anyone who reaches the port.
        allowed_hosts: Names under which the server may be called; empty for any. Requests under other names
            are refused, so that a page from elsewhere cannot reach a server on this machine by a name of its
            own.
        cors_origins: Web pages elsewhere that may call the server, as `https://example.org`.
        max_body_bytes: Longest request body.
        max_documents: Most documents in a request or context.
        max_context_chars: Most characters of a context, or of all documents of a request.
        max_contexts: Most contexts of one key.
        max_new_tokens: Longest answer that may be asked for.
        max_answers: Most answers to one request (`n`, and prompts of a completion).
        max_batch: Answers decoded together.
        max_queue: Requests that may be at work or wait; one more is told to come back later.
        timeout_seconds: Longest time for a request, reading included.
        body_seconds: Time in which a request's body must have come.
        header_seconds: Time in which a request's first line and headers must have come.
        shutdown_seconds: Time that running requests get when the server is told to stop, a second at least.
        context_memory_mb: Soft tokens of contexts kept in memory; others are fetched when asked for.
        prefix_cache_mb: Keys and values of prompts read lately, so that the next question about a context is
            answered sooner; 0 for none.
        store_mb: Size of the store of encoded chunks; None for no limit.

    Raises:
        E2LLMError: If a number is out of its range, a name or an origin is none, or the folder is a file.
    """

    folder: Path | None = None
    model_name: str = "smol"
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    max_documents: int = 64
    max_context_chars: int = 16_000_000
    max_contexts: int = 1000
    max_new_tokens: int = 4096
    max_answers: int = 8
    max_batch: int = 16
    max_queue: int = 64
    timeout_seconds: float = 600.0
    body_seconds: float = 60.0
    header_seconds: float = 20.0
    shutdown_seconds: float = 30.0
    context_memory_mb: int = 1024
    prefix_cache_mb: int = 512
    store_mb: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in _MAY_BE_ZERO else 1
            if isinstance(value, int | float) and not least <= value < math.inf:
                raise E2LLMError(f"{name} must be {least} or more and have an end, got {value!r}")
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise E2LLMError(f"{self.folder} is a file; name the folder that is to keep contexts")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise E2LLMError(f"cors_origins takes origins such as https://example.org, got {origin!r}")
        for host in self.allowed_hosts:
            if not host or set(host) & set("*/ "):
                raise E2LLMError(f"allowed_hosts takes names without port or *, got {host!r}")
        if not self.model_name or len(self.model_name) > 200:
            raise E2LLMError(f"model_name must have 1 to 200 characters, got {self.model_name!r}")
