"""A server under load: requests per second and time to the first token, by the number of clients.

The server is a process of its own, called over the loopback interface; the clients share one thread of this
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.modeling.rates import Rate

_NAME = "benched"
_START_SECONDS = 300


@dataclass(frozen=True)
class LoadRow:
    """What a number of clients got.

    Attributes:
        max_batch: Answers that the server decodes together.
        clients: Clients that each wait for an answer before they ask again.
        requests: Answers in all.
        requests_per_second: Over the whole run.
        new_tokens_per_second: The same of tokens.
        first_token_p50: Seconds from a request to its first token, the median.
        first_token_p95: The 95th percentile.
        total_p50: Seconds from a request to the end of its answer, the median.
    """

    max_batch: int
    clients: int
    requests: int
    requests_per_second: float
    new_tokens_per_second: float
    first_token_p50: float
    first_token_p95: float
    total_p50: float


def measure_serving(
    model: str,
    text: str,
    *,
    clients: Sequence[int] = (1, 2, 4, 8, 16),
    requests_per_client: int = 8,
    new_tokens: int = 64,
    soft_tokens: int | None = None,
    rate: Rate | None = None,
    max_batch: int = 16,
    compared_clients: int = 8,
    on_progress: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Measure a server that decodes in batches, then the same one that decodes one answer at a time.

    Args:
        model: Folder, hub id, or `smol`.
        text: What all questions are about.
        clients: Numbers of clients.
        requests_per_client: Questions of each.
        new_tokens: Length of each answer.
        soft_tokens: K per chunk; by default as many as the window takes.
        rate: In its place, for a model whose dial is the rate.
        max_batch: Answers decoded together by the first server.
        compared_clients: Clients of the second one.
        on_progress: Told what is being measured.

    Returns:
        `rows` (see `LoadRow`), the last one of the second server, and `batching_gain`: requests per second of
        batches over those of one at a time, at `compared_clients`.

    Raises:
        E2LLMError: If the server does not start or answer.
    """
    counts = sorted({*clients, compared_clients})
    rows: list[LoadRow] = []
    with tempfile.TemporaryDirectory(prefix="e2llm-bench-") as folder:
        for batch, numbers in ((max_batch, counts), (1, [compared_clients])):
            with _server(model, Path(folder), batch) as url:
                context_id = _read(url, text)
                for number in numbers:
                    on_progress(f"{number} clients, batches of {batch}")
                    load = _Load(
                        url, context_id, text, new_tokens, {"soft_tokens": soft_tokens, "rate": rate}
                    )
                    rows.append(load.run(number, requests_per_client, batch))
    together = next(row for row in rows if row.clients == compared_clients)
    return {
        "rows": [asdict(row) for row in rows],
        "new_tokens": new_tokens,
        "soft_tokens": soft_tokens,
        "rate": rate,
        "prompt_tokens": load.prompt_tokens,
        "original_tokens": load.original_tokens,
        "batching_gain": together.requests_per_second / rows[-1].requests_per_second,
    }


@contextmanager
def _server(model: str, folder: Path, max_batch: int) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    command = [sys.executable, "-m", "e2llm", "serve", model, "--model-name", _NAME, "--port", "0"]
    options = ["--folder", str(folder / "kept"), "--max-batch", str(max_batch), "--max-queue", "256"]
    log = folder / "server.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, *options, "--json"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    timer = threading.Timer(_START_SECONDS, process.kill)
    timer.start()
    assert process.stdout is not None
    try:
        line = process.stdout.readline()  # the address, once it can be reached; nothing if it ended before
        timer.cancel()
        if not line:
            told = log.read_text(encoding="utf-8", errors="replace").strip()
            raise E2LLMError(f"the server did not start: {told or 'it said nothing'}")
        yield json.loads(line)["url"]
    finally:
        timer.cancel()
        process.terminate()
        process.wait()
        process.stdout.close()


def _read(url: str, text: str) -> str:
    try:
        import httpx2
    except ImportError as error:
        raise MissingExtraError("httpx2", "serve") from error
    response = httpx2.post(f"{url}/v1/contexts", json={"text": text}, timeout=3600, trust_env=False)
    if response.status_code != 201:
        raise E2LLMError(f"the server could not read the text: {response.text}")
    return str(response.json()["id"])


class _Load:
    """Clients that ask.

    Args:
        url: The server's.
        context_id: What they ask about.
        text: Its text; questions ask for its words.
        new_tokens: Length of each answer.
        level: `soft_tokens` and `rate` of each question.
    """

    def __init__(self, url: str, context_id: str, text: str, new_tokens: int, level: dict[str, Any]) -> None:
        self._url, self._context_id = url, context_id
        self._new_tokens, self._level = new_tokens, level
        self._words = sorted(set(re.findall(r"[A-Za-z]{6,}", text))) or ["anything"]
        self.prompt_tokens = self.original_tokens = 0

    def run(self, clients: int, requests: int, max_batch: int) -> LoadRow:
        """Have clients ask, each a number of questions."""
        return asyncio.run(self._run(clients, requests, max_batch))

    async def _run(self, clients: int, requests: int, max_batch: int) -> LoadRow:
        import httpx2

        first: list[float] = []
        total: list[float] = []
        limits = httpx2.Limits(max_connections=clients)
        async with httpx2.AsyncClient(
            base_url=self._url, timeout=3600, limits=limits, trust_env=False
        ) as http:
            await self._ask(http, 0, [], [])  # what every question begins with is now known to the server

            async def client(place: int) -> None:
                for number in range(requests):
                    await self._ask(http, 1 + place * requests + number, first, total)

            started = time.perf_counter()
            await asyncio.gather(*(client(place) for place in range(clients)))
            seconds = time.perf_counter() - started
        count = len(total)
        return LoadRow(
            max_batch,
            clients,
            count,
            count / seconds,
            count * self._new_tokens / seconds,
            statistics.median(first),
            sorted(first)[min(count - 1, int(0.95 * count))],
            statistics.median(total),
        )

    async def _ask(self, http: Any, number: int, first: list[float], total: list[float]) -> None:
        word = self._words[number * 7919 % len(self._words)]
        body = {
            "model": _NAME,
            "messages": [{"role": "user", "content": f"What is said of {word}?"}],
            "context_ids": [self._context_id],
            **self._level,
            "max_tokens": self._new_tokens,
            "min_tokens": self._new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started = time.perf_counter()
        seen = False
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise E2LLMError(f"the server refused: {(await response.aread()).decode()}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                part = json.loads(line[6:])
                if "error" in part:
                    raise E2LLMError(f"the server failed: {part['error']['message']}")
                if not seen and any(choice["delta"].get("content") for choice in part["choices"]):
                    seen = True
                    first.append(time.perf_counter() - started)
                if part.get("usage"):
                    self.prompt_tokens = part["usage"]["prompt_tokens"]
                    self.original_tokens = part["usage"]["original_tokens"]
        total.append(time.perf_counter() - started)
        if not seen:
            first.append(total[-1])


def format_load(result: dict[str, Any]) -> str:
    """The rows as a table."""
    lines = ["batch  clients  requests/s  tokens/s  first token p50  p95     whole p50"]
    lines += [
        f"{row['max_batch']:5}  {row['clients']:7}  {row['requests_per_second']:10.2f}  "
        f"{row['new_tokens_per_second']:8.0f}  {row['first_token_p50']:13.3f} s  "
        f"{row['first_token_p95']:.3f} s  {row['total_p50']:.3f} s"
        for row in result["rows"]
    ]
    lines.append(
        f"prompts of {result['prompt_tokens']:,} positions in the place of {result['original_tokens']:,}; "
        f"batches answer {result['batching_gain']:.2f} times as many requests as one at a time"
    )
    return "\n".join(lines)
