"""Where a vLLM server is, and what it says of itself.

It is asked over its OpenAI protocol at an address that the operator gives; nothing of a request becomes part
of the address. Redirects are not followed, and proxies that the environment names are not used.
"""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from e2llm.errors import E2LLMError

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class VllmServer:
    """Where vLLM is.

    Attributes:
        url: Its address without `/v1`, such as `http://127.0.0.1:8001`.
        model: The name under which it serves the decoder.
        api_key: Sent as `Authorization: Bearer KEY`; None for none.
        max_positions: Prompt and answer together, if it told; it may have been started for fewer than the
            decoder's window.
        timeout_seconds: Longest time without a word from it.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    max_positions: int | None = None
    timeout_seconds: float = 600.0

    @property
    def headers(self) -> dict[str, str]:
        """Of every request to it."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}


def check_url(url: str) -> str:
    """The address of a server, without `/v1` at its end.

    Raises:
        E2LLMError: If it is no plain http or https address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port  # raises if it is no number of a port
        httpx2.URL(url)  # raises if the name of the host is none
    except (ValueError, httpx2.InvalidURL) as error:
        raise E2LLMError(
            f"the address of vLLM is no URL ({error}); give --url http://127.0.0.1:8001"
        ) from error
    if parts.username is not None or parts.password is not None:
        raise E2LLMError(
            "the address of vLLM holds a user name or a password; leave it out, and give a key by "
            "--backend-api-key"
        )
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(" \\?#")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not is_plain:
        raise E2LLMError(f"the address of vLLM must be like http://127.0.0.1:8001, got {url!r}")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def check_api_key(key: str | None) -> str | None:
    """Raise `E2LLMError` for a key that cannot be sent in a header."""
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise E2LLMError("the key for vLLM must be printable ASCII without spaces")
    return key


def find_server(
    url: str, *, model: str | None = None, api_key: str | None = None, timeout_seconds: float = 600.0
) -> VllmServer:
    """Check an address, and ask there which model is served.

    Args:
        url: Of vLLM, with or without `/v1`.
        model: Name of the decoder there; by default what vLLM tells, so that it has to run already.
        api_key: Where vLLM asks for one.
        timeout_seconds: See `VllmServer`.

    Raises:
        E2LLMError: If the address is wrong, nobody answers there, or nothing is served.
    """
    place = VllmServer(check_url(url), model or "", check_api_key(api_key), None, timeout_seconds)
    if model is not None:
        return place
    try:
        with httpx2.Client(timeout=CONNECT_SECONDS, trust_env=False, follow_redirects=False) as client:
            response = client.get(f"{place.url}/v1/models", headers=place.headers)
    except (httpx2.HTTPError, UnicodeError) as error:  # the latter of names with empty parts
        raise E2LLMError(
            f"no vLLM at {place.url}: {error or type(error).__name__}; start it first (e2llm export --merged "
            "prints how), or name its model with --backend-model to do without asking"
        ) from error
    if response.status_code != 200:
        hint = "; give its key in $E2LLM_BACKEND_API_KEY" if response.status_code in (401, 403) else ""
        raise E2LLMError(
            f"{place.url}/v1/models answers with status {response.status_code}, expected 200{hint}"
        )
    try:
        card = response.json()["data"][0]
        name, most = card["id"], card.get("max_model_len")
        if not isinstance(name, str) or not (most is None or isinstance(most, int)):
            raise TypeError(card)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise E2LLMError(f"{place.url}/v1/models names no model; is it vLLM's address?") from error
    return VllmServer(place.url, name, api_key, most, timeout_seconds)
