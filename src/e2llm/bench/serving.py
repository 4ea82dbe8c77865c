"""A server under load: requests per second and time to the first token, by the number of clients.

The server is a separate process, called over the loopback interface; the clients share one thread of this
one. All ask different questions about the same context, and all answers have the same length.
"""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2llm.bench.timing import OnProgress, format_table
from e2llm.errors import E2LLMError, MissingExtraError

MAX_BATCH = 16
_NAME = "benched"
_START_SECONDS = 300
_COLUMNS = {
    "max_batch": "batch", "clients": "clients", "requests": "requests",
    "requests_per_second": "requests/s", "new_tokens_per_second": "tokens/s",
    "first_token_p50": "first token p50 s", "first_token_p95": "p95 s", "total_p50": "whole p50 s",
}  # fmt: skip


def measure_serving(
    model: str,
    text: str,
    clients: Sequence[int] = (1, 2, 4, 8, 16),
    *,
    num_requests: int = 8,
    num_new_tokens: int = 64,
    num_compared_clients: int = 8,
    on_progress: OnProgress = lambda _: None,
) -> dict[str, Any]:
    """Measure a server that decodes in batches, then one that decodes one answer at a time.

    Args:
        model: Folder, hub id, or the name of an embedded model.
        text: What all questions are about.
        clients: Numbers of clients, which each wait for an answer before they ask again.
        num_requests: Questions of each.
        num_new_tokens: Length of each answer.
        num_compared_clients: Clients of the second server, which the first one measures as well.
        on_progress: Called with a line before each measurement.

    Returns:
        `rows`, the last one of the second server, and `batching_gain`: requests per second of batches over
        those of one at a time, at `num_compared_clients`.

    Raises:
        E2LLMError: If the server does not start or answer.
    """
    rows: list[dict[str, Any]] = []
    counts = sorted({*clients, num_compared_clients})
    with tempfile.TemporaryDirectory(prefix="e2llm-bench-") as folder:
        for batch, numbers in ((MAX_BATCH, counts), (1, [num_compared_clients])):
            with _server(model, Path(folder), batch) as url:
                load = _Load(url, text, num_new_tokens)
                for number in numbers:
                    on_progress(f"{number} clients, batches of {batch}")
                    row = asyncio.run(load.run(number, num_requests))
                    rows.append({"max_batch": batch, "clients": number, **row})
    together = next(row for row in rows if row["clients"] == num_compared_clients)
    return {
        "rows": rows,
        "new_tokens": num_new_tokens,
        **load.usage,
        "batching_gain": together["requests_per_second"] / rows[-1]["requests_per_second"],
    }


@contextmanager
def _server(model: str, folder: Path, max_batch: int) -> Iterator[str]:
    """Start a server in a separate process; gives its address."""
    command = [sys.executable, "-m", "e2llm", "serve", model, "--model-name", _NAME, "--port", "0", "--json"]
    limits = ["--set", f"max_batch={max_batch}", "--set", "max_queue=256"]
    log = folder / "server.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--folder", str(folder / "kept"), *limits],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    timer = threading.Timer(_START_SECONDS, process.kill)
    timer.start()
    assert process.stdout is not None
    try:
        line = process.stdout.readline()  # the address, once it can be reached; empty if the server ended
        timer.cancel()
        if not line:
            reason = log.read_text(encoding="utf-8", errors="replace").strip()
            raise E2LLMError(f"the server did not start: {reason or 'it printed no error'}")
        yield json.loads(line)["url"]
    finally:
        timer.cancel()
        process.terminate()
        process.wait()
        process.stdout.close()


class _Load:
    """Clients that ask about a text.

    Args:
        url: The server's.
        text: The context; questions ask for its words.
        num_new_tokens: Length of each answer.
    """

    def __init__(self, url: str, text: str, num_new_tokens: int) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtraError("httpx2", "serve") from error
        response = httpx2.post(f"{url}/v1/contexts", json={"text": text}, timeout=3600, trust_env=False)
        if response.status_code != 201:
            raise E2LLMError(f"the server could not read the text: {response.text}")
        self._url, self._num_new_tokens = url, num_new_tokens
        self._context_id = response.json()["id"]
        self._words = sorted(set(re.findall(r"[A-Za-z]{6,}", text))) or ["anything"]
        self.usage: dict[str, int] = {}

    async def run(self, clients: int, requests: int) -> dict[str, float]:
        """Have clients ask, each a number of questions."""
        import httpx2

        times: list[tuple[float, float]] = []
        async with httpx2.AsyncClient(base_url=self._url, timeout=3600, trust_env=False) as http:
            await self._ask(http, 0)  # the server then knows the beginning that all questions share

            async def client(place: int) -> None:
                for number in range(requests):
                    times.append(await self._ask(http, 1 + place * requests + number))

            started = time.perf_counter()
            await asyncio.gather(*(client(place) for place in range(clients)))
            seconds = time.perf_counter() - started
        first, total = (sorted(values) for values in zip(*times, strict=True))
        count = len(times)
        return {
            "requests": count,
            "requests_per_second": count / seconds,
            "new_tokens_per_second": count * self._num_new_tokens / seconds,
            "first_token_p50": statistics.median(first),
            "first_token_p95": first[min(count - 1, int(0.95 * count))],
            "total_p50": statistics.median(total),
        }

    async def _ask(self, http: Any, number: int) -> tuple[float, float]:
        """Ask one question; return the seconds to its first token and to its end."""
        word = self._words[number * 7919 % len(self._words)]
        body = {
            "model": _NAME,
            "messages": [{"role": "user", "content": f"What is said of {word}?"}],
            "context_ids": [self._context_id],
            "max_tokens": self._num_new_tokens,
            "min_tokens": self._num_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started = time.perf_counter()
        first = None
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise E2LLMError(f"the server refused a question: {(await response.aread()).decode()}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                part = json.loads(line[6:])
                if "error" in part:
                    raise E2LLMError(f"the server failed while it answered: {part['error']['message']}")
                if first is None and any(choice["delta"].get("content") for choice in part["choices"]):
                    first = time.perf_counter() - started
                if usage := part.get("usage"):
                    self.usage = {key: usage[key] for key in ("prompt_tokens", "original_tokens")}
        total = time.perf_counter() - started
        return total if first is None else first, total


def format_load(result: dict[str, Any]) -> str:
    """Return the rows as a table."""
    return (
        f"{format_table(result['rows'], _COLUMNS)}\nprompts of {result['prompt_tokens']:,} positions "
        f"instead of {result['original_tokens']:,}; batches answer {result['batching_gain']:.2f} times as "
        "many requests as one at a time"
    )
