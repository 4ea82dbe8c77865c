"""Decoding by a vLLM server: this process reads and stores, vLLM gets soft tokens and sends text back."""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import httpx2

from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.engine import Engine
from e2llm.serving.api_errors import ApiError
from e2llm.serving.backends import AnswerPart, DecoderPrompt
from e2llm.serving.vllm_prompts import CHAT_PATH, PromptWriter, UpstreamPrompt
from e2llm.serving.vllm_server import CONNECT_SECONDS, VllmServer

logger = logging.getLogger("e2llm.serving")
_RETRY_SECONDS = 5
_REASONS = ("stop", "length")
_SEEDS = 2**63


class VllmBackend:
    """Decodes with a vLLM server.

    Args:
        engine: Its model's decoder, LoRA merged, is what vLLM runs. Nothing is decoded in this process.
        server: Where vLLM is.

    Raises:
        E2LLMError: If the decoder's tokenizer has no chat template.
    """

    name = "vllm"

    def __init__(self, engine: Engine, server: VllmServer) -> None:
        self._server = server
        self._writer = PromptWriter(engine)
        self._placeholder = engine.processor.chunk_token_id
        ends = engine.model.generation_config.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends or ())
        self._tls = ssl.create_default_context()
        self._running: dict[asyncio.Task[None], asyncio.AbstractEventLoop] = {}
        self._closed = False

    def check(self, sampling: Sampling) -> None:
        """Refuse penalties."""
        if sampling.has_penalties:
            name = "presence_penalty" if sampling.presence_penalty else "frequency_penalty"
            raise ApiError(
                400,
                f"{name} is not supported by this server: its decoder runs in vLLM, whose engine may die of "
                "penalties together with embedded prompts (vllm-project/vllm#57719); leave it out",
                code="unsupported_value",
                param=name,
            )

    async def answer(self, prompts: Sequence[tuple[DecoderPrompt, Sampling]]) -> AsyncIterator[AnswerPart]:
        """Answer several prompts at once, each by a request of its own; see `Backend`."""
        for prompt, sampling in prompts:
            self.check(sampling)
            self._check_length(prompt, sampling)
        parts: asyncio.Queue[AnswerPart | BaseException] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def follow(index: int, prompt: DecoderPrompt, sampling: Sampling) -> None:
            try:
                async with aclosing(self._answer_one(client, index, prompt, sampling)) as pieces:  # type: ignore[type-var]
                    async for piece in pieces:
                        parts.put_nowait(piece)
            except asyncio.CancelledError:
                parts.put_nowait(_stopping())  # nobody listens where the caller went
                raise
            except Exception as error:  # raised where the parts are taken
                parts.put_nowait(error)

        async with self._client() as client:
            if self._closed:
                raise _stopping()
            tasks = [loop.create_task(follow(place, *item)) for place, item in enumerate(prompts)]
            self._running |= dict.fromkeys(tasks, loop)
            try:
                waiting = len(tasks)
                while waiting:
                    part = await parts.get()
                    if isinstance(part, BaseException):
                        raise part
                    waiting -= part.finish_reason is not None
                    yield part
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for task in tasks:
                    del self._running[task]

    def _client(self) -> Any:
        """A client of its own for each request: what is closed is closed for vLLM too."""
        return httpx2.AsyncClient(
            timeout=httpx2.Timeout(self._server.timeout_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
            follow_redirects=False,
            verify=self._tls,
        )

    def _check_length(self, prompt: DecoderPrompt, sampling: Sampling) -> None:
        most = self._server.max_positions
        needed = len(prompt.laid.sample.input_ids) + sampling.max_new_tokens
        if most is not None and needed > most:
            raise ApiError(
                400,
                f"prompt and answer need {needed} positions, the decoding server was started for {most}; "
                "lower max_tokens, send less text, or let overflow be 'select'",
                code="context_length_exceeded",
                param="messages" if prompt.is_chat else "prompt",
            )

    # --- one answer ---------------------------------------------------------------------------------------

    async def _answer_one(
        self, client: Any, index: int, prompt: DecoderPrompt, sampling: Sampling
    ) -> AsyncIterator[AnswerPart]:
        written = await asyncio.to_thread(self._writer.write, prompt)
        body = {"model": self._server.model, **written.fields, **self._choosing(written, sampling)}
        url = f"{self._server.url}{written.path}"
        with _told_plainly():
            async with client.stream("POST", url, json=body, headers=self._server.headers) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code)
                reading = _AnswerReading(index)
                async for line in response.aiter_lines():
                    if (data := _data_of(line)) is None:
                        continue
                    if data == "[DONE]":
                        break
                    if (part := reading.take(data)) is not None:
                        yield part
        yield reading.end()

    def _choosing(self, written: UpstreamPrompt, sampling: Sampling) -> dict[str, Any]:
        """How tokens are chosen, with all that the generation settings of a model's folder could change."""
        limit = "max_completion_tokens" if written.path == CHAT_PATH else "max_tokens"
        fields: dict[str, Any] = {
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 1,
            limit: sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logit_bias": {str(self._placeholder): -100},
            "stop_token_ids": self._ends,
        }
        if sampling.seed is not None:
            fields["seed"] = (sampling.seed + _SEEDS) % (2 * _SEEDS) - _SEEDS
        if sampling.min_new_tokens:
            fields["min_tokens"] = sampling.min_new_tokens
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        return fields

    @property
    def num_decoding(self) -> int:
        """Answers on their way."""
        return len(self._running)

    def close(self) -> None:
        """Give up what is on its way, and begin nothing more."""
        self._closed = True
        for task, loop in list(self._running.items()):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(task.cancel)


class _AnswerReading:
    """One answer's events, and what they make.

    Args:
        index: Which answer.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._held = ""  # white space that belongs to the answer only if more comes
        self._has_text = False
        self._reason: str | None = None
        self._stopped_by_text = False
        self._count = 0
        self._total: int | None = None

    def take(self, data: str) -> AnswerPart | None:
        """Take an event; returns the piece that it brings, if any."""
        try:
            event = json.loads(data)
            if "error" in event:
                logger.error("the decoding server ended an answer with an error")
                raise _broken()
            if event.get("usage"):
                self._total = int(event["usage"]["completion_tokens"])
            if not event["choices"]:
                return None
            choice = event["choices"][0]
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            reason = choice.get("finish_reason")
            if not isinstance(text, str) or not (reason is None or isinstance(reason, str)):
                raise TypeError(choice)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _broken() from error
        if reason is not None:
            self._reason = reason
            self._stopped_by_text = isinstance(choice.get("stop_reason"), str)
        if not text:
            return None
        self._count += 1
        piece = self._told(text)
        return AnswerPart(self._index, piece, self._count) if piece else None

    def _told(self, text: str) -> str:
        """The piece without white space at the answer's begin, and what there is at its end held back."""
        whole = self._held + text
        if not self._has_text:
            whole = whole.lstrip()
        piece = whole.rstrip()
        self._held = whole[len(piece) :]
        self._has_text = self._has_text or bool(piece)
        return piece

    def end(self) -> AnswerPart:
        """The last piece.

        Raises:
            ApiError: If the answer is not whole.
        """
        if self._reason not in _REASONS:
            raise _broken()
        rest = self._held if self._stopped_by_text and self._has_text else ""
        count = self._count if self._total is None else self._total
        return AnswerPart(self._index, rest, count, "stop" if self._reason == "stop" else "length")


def _data_of(line: str) -> str | None:
    """What a line of a server-sent event holds; None for other lines."""
    return line[5:].strip() if line.startswith("data:") else None


# --- what goes wrong --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told_plainly() -> Any:
    """Turn what goes wrong on the way to vLLM into what a caller may know of it."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise ApiError(
            503,
            "the decoding server cannot be reached; try again later",
            code="backend_unreachable",
            retry_after=_RETRY_SECONDS,
        ) from error
    except httpx2.TimeoutException as error:
        raise ApiError(
            504, "the decoding server took too long; try again later", code="backend_timeout"
        ) from error
    except httpx2.HTTPError as error:
        raise _broken() from error


def _broken() -> ApiError:
    return ApiError(502, "the decoding server broke the answer off; try again", code="backend_error")


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", retry_after=_RETRY_SECONDS)


def _refusal(status: int) -> ApiError:
    """What to tell of a status; vLLM's own words are not passed on, for they may name what is not public."""
    logger.error("the decoding server answers with status %d", status)
    if status in (429, 503):
        return ApiError(
            503,
            "the decoding server is busy or starting; try again later",
            code="backend_busy",
            retry_after=_RETRY_SECONDS,
        )
    if 400 <= status < 500:
        return ApiError(
            502,
            f"the decoding server refuses this server's request (status {status}); its operator has to look "
            "at how both were started",
            code="backend_refused",
        )
    return ApiError(502, f"the decoding server failed (status {status}); try again", code="backend_error")
