"""The address of a vLLM server, and what the server says about itself.

The operator gives the address; nothing of a request becomes part of it. Redirects and the proxies that the
environment names are ignored.
"""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from e2llm.errors import E2LLMError
from e2llm.serving.settings import BACKEND_KEY_VARIABLE

CONNECT_SECONDS = 10.0
_EXAMPLE = "http://127.0.0.1:8001"


@dataclass(frozen=True)
class VllmServer:
    """A vLLM server.

    Attributes:
        url: Its address without `/v1`, such as `http://127.0.0.1:8001`.
        model: Its name for the decoder.
        api_key: Sent as `Authorization: Bearer KEY`; None for none.
        max_positions: Prompt and answer together, if vLLM states it; may be less than the decoder's window.
        timeout_seconds: Longest silence.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    max_positions: int | None = None
    timeout_seconds: float = 600.0

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request to it."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}


def check_url(url: str) -> str:
    """Return the address of a server without a `/v1` at its end.

    Raises:
        E2LLMError: If it is not a plain http or https address.
    """
    try:
        parts = urlsplit(url)
        is_plain = url.isascii() and url.isprintable() and not set(url) & set(" \\?#") and parts.port != 0
        httpx2.URL(url)  # raises if the name of the host is invalid
    except (ValueError, httpx2.InvalidURL) as error:
        raise E2LLMError(f"the address of vLLM is invalid ({error}); give --url {_EXAMPLE}") from error
    if parts.username is not None or parts.password is not None:
        raise E2LLMError(
            "the address of vLLM contains a user name or a password; leave it out, and give a key in "
            f"${BACKEND_KEY_VARIABLE}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise E2LLMError(f"the address of vLLM must be like {_EXAMPLE}, got {url!r}")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def find_server(url: str, *, model: str | None = None, timeout_seconds: float = 600.0) -> VllmServer:
    """Check an address, and ask the server there which model it serves.

    Args:
        url: Of vLLM, with or without `/v1`; its key is in `$E2LLM_BACKEND_API_KEY`, if it needs one.
        model: vLLM's name for the decoder; by default the server is asked, so that it has to run already.
        timeout_seconds: See `VllmServer`.

    Raises:
        E2LLMError: If the address or the key is wrong, the server does not answer, or it serves no model.
    """
    key = os.environ.get(BACKEND_KEY_VARIABLE)
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise E2LLMError(f"${BACKEND_KEY_VARIABLE}, the key for vLLM, must be printable ASCII without spaces")
    server = VllmServer(check_url(url), model or "", key, None, timeout_seconds)
    if model is not None:
        return server
    try:
        with httpx2.Client(timeout=CONNECT_SECONDS, trust_env=False, follow_redirects=False) as client:
            response = client.get(f"{server.url}/v1/models", headers=server.headers)
    except (httpx2.HTTPError, UnicodeError) as error:  # the latter for names with empty parts
        raise E2LLMError(
            f"no vLLM at {server.url}: {error or type(error).__name__}; start it first (e2llm export "
            "--merged prints how), or give --backend-model to continue without asking it"
        ) from error
    if response.status_code != 200:
        hint = f"; give its key in ${BACKEND_KEY_VARIABLE}" if response.status_code in (401, 403) else ""
        raise E2LLMError(
            f"{server.url}/v1/models answers with status {response.status_code}, expected 200{hint}"
        )
    try:
        card = response.json()["data"][0]
        name, most = card["id"], card.get("max_model_len")
        if not isinstance(name, str) or not (most is None or isinstance(most, int)):
            raise TypeError(card)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise E2LLMError(f"{server.url}/v1/models names no model; is it vLLM's address?") from error
    return VllmServer(server.url, name, key, most, timeout_seconds)
