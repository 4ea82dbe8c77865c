"""Middleware for every request: check host, origin and body limits; count and log."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2llm.serving.http.api_error import ApiError
from e2llm.serving.http.work import last_events
from e2llm.serving.schemas import UsageOut
from e2llm.serving.settings import ServerSettings

logger = logging.getLogger("e2llm.serving")
MAX_HEADER_BYTES = 64 * 1024
# Browsers load nothing from other sites into the pages, and show the pages in no frame.
_SECURITY_HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
}


class Metrics:
    """Counters of one server.

    Args:
        gauges: By name: what each means, and a function that returns its value.
    """

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "e2llm_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._tokens = Counter("e2llm_tokens", "Tokens of answered requests.", ["kind"], registry=registry)
        self.chunks_encoded = Counter(
            "e2llm_chunks_encoded", "Chunks that the encoder read for contexts.", registry=registry
        )
        self._disconnects = Counter(
            "e2llm_disconnects", "Requests whose client closed the connection.", registry=registry
        )

        def histogram(name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"e2llm_{name}", text, labels, registry=registry, buckets=_SECONDS)

        self._seconds = histogram("request_seconds", "Whole time of requests.", ("route",))
        self.first_token = histogram("first_token_seconds", "From the request to its first token.")
        self.reading = histogram("read_seconds", "Reading the texts of a request.")
        for name, (text, value) in gauges.items():
            Gauge(f"e2llm_{name}", text, registry=registry).set_function(value)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if status == 499:
            self._disconnects.inc()

    def count(self, usage: UsageOut) -> None:
        """Count an answered request's tokens."""
        for kind in ("prompt_tokens", "completion_tokens", "original_tokens", "soft_tokens"):
            self._tokens.labels(kind.removesuffix("_tokens")).inc(getattr(usage, kind))


class Gate:
    """Refuses requests that are too long or too slow, or come from a page or by a name that is not allowed.

    A page on another site can send requests to a server on the same machine. Either its `Origin` shows this,
    or the `Host`, if the page's own name was made to lead here. Counts and log lines hold sizes and times,
    never contents. HEAD is answered as GET; the server leaves out the body.

    Args:
        app: The application.
        settings: The limits.
        metrics: The counters.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        method = scope["method"]
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        exchange = _Exchange(self._settings, scope, receive, send)
        try:
            self._check(scope["headers"])
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:  # in the middle of its body
            exchange.status = exchange.status or 499
        except asyncio.CancelledError:  # the server has waited long enough for this request
            with suppress(asyncio.CancelledError):  # again, where the client does not take its answer
                await exchange.break_off()
        except Exception as error:
            if not isinstance(error, ApiError):  # a fault of the server: a 500, and the connection stays
                logger.error("a request failed: %s", type(error).__name__, exc_info=error)
            if exchange.status:
                raise
            await ApiError.of(error).response()(scope, receive, exchange.send)
        finally:
            seconds, status = time.monotonic() - started, exchange.status or 500
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count_request(route, status, seconds)
            line = "%s %s %d, %d bytes in, %d out, %.3f s"
            logger.info(line, method, route, status, exchange.num_in, exchange.num_out, seconds)

    def _check(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        if sum(len(name) + len(value) for name, value in raw) > MAX_HEADER_BYTES:
            message = f"the headers are longer than {MAX_HEADER_BYTES:,} bytes; send less"
            raise ApiError(431, message, code="headers_too_large")
        headers = Headers(raw=list(raw))
        host, origin = headers.get("host", ""), headers.get("origin")
        allowed = self._settings.allowed_hosts
        if allowed and _part(f"//{host}", "hostname") not in allowed:
            raise ApiError(
                403,
                "the Host header names another host; use the server's address, or start it with "
                "--allowed-host",
                code="host_not_allowed",
            )
        is_own = origin is None or origin in self._settings.cors_origins
        if not is_own and (_part(origin, "netloc") or "").lower() != host.lower():
            raise ApiError(
                403,
                "requests from the page in Origin are not allowed; start the server with --set cors_origins",
                code="origin_not_allowed",
            )
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ApiError(400, "Content-Length must be a number of bytes")
        if len(length) > 18 or int(length) > self._settings.max_body_bytes:
            raise _too_long(self._settings)


class _Exchange:
    """A request and its response; refuse the rest of a body that is too long or too slow."""

    def __init__(self, settings: ServerSettings, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_in = self.num_out = 0
        self.status: int | None = None  # of the answer, once it has begun
        self._settings = settings
        self._scope, self._receive, self._send = scope, receive, send
        self._deadline = time.monotonic() + settings.body_seconds
        self._is_whole = self._is_refused = False
        self._is_stream = self._is_answered = False

    async def receive(self) -> Message:
        """Return the next part of the body, or the end of the connection."""
        if self._is_whole:
            return await self._receive()
        try:
            left = max(0.0, self._deadline - time.monotonic())
            message = await asyncio.wait_for(self._receive(), left)
            self._is_whole = not message.get("more_body", False)
            self.num_in += len(message.get("body", b""))
            if self.num_in <= self._settings.max_body_bytes:
                return message
            problem = _too_long(self._settings)
        except TimeoutError:
            limit = self._settings.body_seconds
            problem = ApiError(
                408, f"the request body did not arrive within {limit:g} seconds", code="timeout"
            )
        if self.status is None:
            await problem.response()(self._scope, self._receive, self.send)
        self._is_refused = True
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if self._is_refused:
            return  # the refusal has been sent
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower(): value for name, value in message["headers"]}
            self._is_stream = present.get(b"content-type", b"").startswith(b"text/event-stream")
            extra = [item for item in _SECURITY_HEADERS.items() if item[0] not in present]
            message = {**message, "headers": [*message["headers"], *extra]}
        elif not message.get("more_body", False):
            self._is_answered = True
        self.num_out += len(message.get("body", b""))
        await self._send(message)

    async def break_off(self) -> None:
        """End the answer with an error, since the server is stopping."""
        error = ApiError(
            503, "the server is stopping; send the request again later", code="server_stopping", retry_after=5
        )
        if self.status is None:
            await error.response()(self._scope, self._receive, self.send)
        elif self._is_stream and not self._is_answered:
            await self.send({"type": "http.response.body", "body": last_events(error).encode()})


def _too_long(settings: ServerSettings) -> ApiError:
    limit = settings.max_body_bytes
    return ApiError(
        413, f"the request body is longer than {limit:,} bytes; send less", code="request_too_large"
    )


def _part(url: str | None, name: str) -> str | None:
    """Return a part of a URL; None if it is not a URL or has no such part."""
    try:
        return getattr(urlsplit(url or ""), name) or None
    except ValueError:
        return None


_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
