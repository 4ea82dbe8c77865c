"""What every request passes before anything reads it: its host, its origin, its size."""

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2llm.serving.api_errors import ApiError

# What browsers may do with what comes from here: nothing from elsewhere, and no frame around it.
_SECURITY_HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
}


def error_response(problem: ApiError) -> JSONResponse:
    """The response that tells of a problem."""
    return JSONResponse(problem.body, problem.status, problem.headers)


class Gate:
    """Refuses requests that are too long, or come from a page or under a name that is not allowed.

    A page on another site can send requests to a server on the same machine: its `Origin` gives it away, or
    the name that it had made to lead here, in `Host`.

    Args:
        app: What comes after.
        max_body_bytes: Longest body, whether its length is stated or it comes in pieces.
        body_seconds: Time in which a body must have come.
        allowed_hosts: Names of the server; empty for any.
        cors_origins: Pages elsewhere that may send requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        body_seconds: float,
        allowed_hosts: Sequence[str],
        cors_origins: Sequence[str],
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds
        self._allowed_hosts = frozenset(allowed_hosts)
        self._cors_origins = frozenset(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            if refused:
                return  # the answer to a body that was too long has been sent
            if message["type"] == "http.response.start":
                started = True
                present = {name.lower() for name, _ in message["headers"]}
                extra = [item for item in _SECURITY_HEADERS.items() if item[0] not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        num_bytes, is_whole = 0, False
        deadline = time.monotonic() + self._body_seconds

        async def receive_on() -> Message:
            nonlocal num_bytes, refused, is_whole
            if is_whole:  # what comes now is the end of the connection
                return await receive()
            problem = None
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
                is_whole = not message.get("more_body", False)
                num_bytes += len(message.get("body", b""))
                if num_bytes > self._max_body_bytes:
                    problem = self._too_long()
            except TimeoutError:
                problem = self._too_slow()
            if problem is None:
                return message
            if not started:
                await error_response(problem)(scope, receive, send_on)
            refused = True
            return {"type": "http.disconnect"}

        try:
            self._check(Headers(scope=scope))
        except ApiError as problem:
            await error_response(problem)(scope, receive, send_on)
            return
        await self._app(scope, receive_on, send_on)

    def _check(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = _host_name(f"//{host}")
        if self._allowed_hosts and name not in self._allowed_hosts:
            raise ApiError(403, "this server does not answer under that name", code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and origin not in self._cors_origins and _netloc(origin) != host.lower():
            raise ApiError(403, "requests from that page are not allowed", code="origin_not_allowed")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ApiError(400, "Content-Length is no number", code="invalid_value")
        if len(length) > 18 or int(length) > self._max_body_bytes:
            raise self._too_long()

    def _too_slow(self) -> ApiError:
        return ApiError(
            408, f"the request body did not come within {self._body_seconds:g} seconds", code="timeout"
        )

    def _too_long(self) -> ApiError:
        return ApiError(
            413, f"the request body is longer than {self._max_body_bytes:,} bytes", code="request_too_large"
        )


def _netloc(origin: str) -> str | None:
    """Host and port of an origin, in small letters; None for what is no URL."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _host_name(host: str) -> str | None:
    """The name in a host header, without its port."""
    try:
        return urlsplit(host).hostname
    except ValueError:
        return None
