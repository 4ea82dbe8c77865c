"""What the server counts, for Prometheus: sizes and times, never contents."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from e2llm.serving.schemas.answers import UsageOut

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


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
