"""Decode with a vLLM server: this process reads and stores; vLLM gets embeddings and returns text.

Every prompt goes to vLLM's `/v1/completions` as laid out here: as token ids, or as `prompt_embeds` if it has
soft tokens. vLLM adds nothing to either, so the decoder gets the same input as in this process, and text of a
user never becomes a control token.
"""

import asyncio
import base64
import contextlib
import io
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import torch

from e2llm.errors import E2LLMError
from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.engine import Engine
from e2llm.inference.layout import LaidOut
from e2llm.modeling.composite import CompositeModel
from e2llm.serving.backend import AnswerPart
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.settings import BACKEND_KEY_VARIABLE

logger = logging.getLogger("e2llm.serving")
_RETRY_SECONDS = 5
_SEEDS = 2**63


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
        raise E2LLMError(f"{server.url}/v1/models returned status {response.status_code}, expected 200{hint}")
    try:
        card = response.json()["data"][0]
        name, most = card["id"], card.get("max_model_len")
        if not isinstance(name, str) or not (most is None or isinstance(most, int)):
            raise TypeError(card)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise E2LLMError(
            f"{server.url}/v1/models lists no model; check that this is vLLM's address"
        ) from error
    return VllmServer(server.url, name, key, most, timeout_seconds)


class VllmBackend:
    """Decodes with a vLLM server.

    Args:
        engine: vLLM runs the decoder of its model, with LoRA merged. This process decodes nothing.
        server: The server.
    """

    def __init__(self, engine: Engine, server: VllmServer) -> None:
        self.server = server
        self._model = engine.model
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
                f"{name} is not supported by this server: its decoder runs in vLLM, whose engine may crash "
                "on penalties with embedded prompts (vllm-project/vllm#57719); leave it out",
                code="unsupported_value",
                param=name,
            )

    async def answer(self, laid: LaidOut, sampling: Sampling) -> AsyncIterator[AnswerPart]:
        """Answer a prompt with one request to vLLM; see `Backend`."""
        self.check(sampling)
        self._check_length(laid, sampling)
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = asyncio.get_running_loop()
        reading = _AnswerReading(keeps_space=sampling.continues)
        try:
            if self._closed:
                raise _stopping()
            prompt = await asyncio.to_thread(write_prompt, self._model, laid)
            body = {"model": self.server.model, **prompt, **self._choosing(sampling)}
            with _errors_for_the_caller():
                async with aclosing(self._events(body)) as events:  # type: ignore[type-var]
                    async for data in events:
                        if (part := reading.take(data)) is not None:
                            yield part
            yield reading.end()
        except asyncio.CancelledError:
            if self._closed:
                raise _stopping() from None
            raise
        finally:
            del self._running[task]

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """Send a request, and yield the data of the server-sent events of its answer."""
        # A client for one request: closing it closes the request for vLLM too.
        timeout = httpx2.Timeout(self.server.timeout_seconds, connect=CONNECT_SECONDS)
        options: dict[str, Any] = {"trust_env": False, "follow_redirects": False, "verify": self._tls}
        sent: dict[str, Any] = {"json": body, "headers": self.server.headers}
        async with (
            httpx2.AsyncClient(timeout=timeout, **options) as client,
            client.stream("POST", f"{self.server.url}/v1/completions", **sent) as response,
        ):
            if response.status_code != 200:
                raise _refusal(response.status_code)
            async for line in response.aiter_lines():
                if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
                    yield data

    def _check_length(self, laid: LaidOut, sampling: Sampling) -> None:
        most = self.server.max_positions
        needed = len(laid.sample.input_ids) + sampling.max_new_tokens
        if most is not None and needed > most:
            raise ApiError(
                400,
                f"prompt and answer need {needed} positions, but the decoding server allows {most}; "
                "lower max_tokens, send less text, or let overflow be 'select'",
                code="context_length_exceeded",
                param="max_tokens",
            )

    def _choosing(self, sampling: Sampling) -> dict[str, Any]:
        """Return how tokens are chosen, so that generation settings in the model's folder change nothing."""
        fields: dict[str, Any] = {
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 1,
            "max_tokens": sampling.max_new_tokens,
            "min_tokens": sampling.min_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(sampling.stop),
            "logit_bias": {str(self._placeholder): -100},
            "stop_token_ids": self._ends,
        }
        if sampling.seed is not None:
            fields["seed"] = (sampling.seed + _SEEDS) % (2 * _SEEDS) - _SEEDS
        return fields

    @property
    def num_decoding(self) -> int:
        """Answers under way."""
        return len(self._running)

    def close(self) -> None:
        """Cancel running answers, and start no more."""
        self._closed = True
        for task, loop in list(self._running.items()):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(task.cancel)


@torch.inference_mode()
def write_prompt(model: CompositeModel, laid: LaidOut) -> dict[str, Any]:
    """Return the prompt of a request to vLLM: ids, or embeddings `[L, D]` if there are soft tokens.

    Embeddings are base64 of `torch.save` in the decoder's dtype. Equal numbers give equal bytes, so that
    vLLM's prefix cache finds them again.
    """
    ids = laid.sample.input_ids
    if laid.soft_tokens is None:
        return {"prompt": ids}
    weight = model.get_input_embeddings().weight
    tokens = torch.tensor([ids], device=weight.device)
    embeds: torch.Tensor = model.merge(tokens, chunk_embeds=laid.soft_tokens.to(weight.device))[0]
    stream = io.BytesIO()
    torch.save(embeds.to("cpu", weight.dtype).contiguous().clone(), stream)  # a view would bring its base
    return {"prompt_embeds": base64.b64encode(stream.getvalue()).decode("ascii")}


class _AnswerReading:
    """Turns the events of an answer into its pieces.

    Args:
        keeps_space: Whether white space around the answer belongs to it.
    """

    def __init__(self, *, keeps_space: bool) -> None:
        self._keeps_space = keeps_space
        self._held = ""  # white space that belongs to the answer only if more comes
        self._has_text = False
        self._reason: str | None = None
        self._stopped_by_text = False
        self._count = 0
        self._total: int | None = None

    def take(self, data: str) -> AnswerPart | None:
        """Take an event, and return its piece if it has one."""
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
            text, reason = choice["text"], choice.get("finish_reason")
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
        if self._keeps_space:
            return AnswerPart(text, self._count)
        whole = self._held + text
        if not self._has_text:
            whole = whole.lstrip()
        piece = whole.rstrip()
        self._held = whole[len(piece) :]
        self._has_text = self._has_text or bool(piece)
        return AnswerPart(piece, self._count) if piece else None

    def end(self) -> AnswerPart:
        """Return the last piece; raise `ApiError` if the answer is incomplete."""
        if self._reason not in ("stop", "length"):
            raise _broken()
        rest = self._held if self._stopped_by_text and self._has_text else ""
        count = self._count if self._total is None else self._total
        return AnswerPart(rest, count, "stop" if self._reason == "stop" else "length")


# --- errors -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _errors_for_the_caller() -> Iterator[None]:
    """Turn errors on the way to vLLM into errors that reveal nothing of the server to the caller."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        message = "the decoding server is unreachable; retry later"
        raise ApiError(503, message, code="backend_unreachable", retry_after=_RETRY_SECONDS) from error
    except httpx2.TimeoutException as error:
        message = "the decoding server took too long; retry later"
        raise ApiError(504, message, code="backend_timeout") from error
    except httpx2.HTTPError as error:
        raise _broken() from error


def _broken() -> ApiError:
    return ApiError(502, "the decoding server ended the answer early; retry", code="backend_error")


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", retry_after=_RETRY_SECONDS)


def _refusal(status: int) -> ApiError:
    """Return the error for a status; vLLM's message may name things that are not public."""
    logger.error("the decoding server answers with status %d", status)
    if status in (429, 503):
        message = "the decoding server is busy or starting; retry later"
        return ApiError(503, message, code="backend_busy", retry_after=_RETRY_SECONDS)
    if 400 <= status < 500:
        message = (
            f"the decoding server refuses this server's request (status {status}); ask the operator to check "
            "how both were started"
        )
        return ApiError(502, message, code="backend_refused")
    return ApiError(502, f"the decoding server failed (status {status}); retry", code="backend_error")


CONNECT_SECONDS = 10.0
_EXAMPLE = "http://127.0.0.1:8001"
