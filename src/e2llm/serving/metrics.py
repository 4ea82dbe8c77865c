"""What the server counts, in the format of Prometheus; sizes and times, never contents."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from e2llm.serving.schemas import UsageOut

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one server.

    Args:
        gauges: By name: what it means, and how to ask for its value now.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "e2llm_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._tokens = Counter(
            "e2llm_tokens", "Tokens of answered requests.", ["kind"], registry=self._registry
        )
        self.seconds = Histogram(
            "e2llm_request_seconds", "Whole time of requests.", ["route"], registry=self._registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.first_token = Histogram(
            "e2llm_first_token_seconds", "From the request to its first token.", registry=self._registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.reading = Histogram(
            "e2llm_read_seconds", "Reading what a request brings.", registry=self._registry, buckets=_SECONDS
        )
        self.chunks_encoded = Counter(
            "e2llm_chunks_encoded", "Chunks that the encoder read for contexts.", registry=self._registry
        )
        self.disconnects = Counter(
            "e2llm_disconnects", "Requests whose client went away.", registry=self._registry
        )
        for name, (text, value) in gauges.items():
            Gauge(f"e2llm_{name}", text, registry=self._registry).set_function(value)

    def count(self, usage: UsageOut) -> None:
        """Count an answered request's tokens."""
        for kind in ("prompt_tokens", "completion_tokens", "original_tokens", "soft_tokens"):
            self._tokens.labels(kind.removesuffix("_tokens")).inc(getattr(usage, kind))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
