"""From a prompt laid out here to a request that vLLM's documented API takes for the same prompt.

A conversation goes to the chat API: text parts, and a `prompt_embeds` part for each run of soft tokens; vLLM
puts the chat template around them and tokenizes. Before it is sent, the same is done here and the ids are
held against the layout's. Where they differ (a tokenizer that joins words across parts, a control token in a
user's text, a template that treats earlier turns otherwise) the whole prompt goes to the completions API as
embeddings, to which nothing is added. So the decoder gets what it would get here in either case.

Shapes: n rows of a part, L decoder tokens, D decoder width.
"""

import base64
import contextlib
import copy
import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.serving.backends import DecoderPrompt

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
RESERVED_TEXT = "<prompt_embeds>"  # vLLM refuses texts that hold it
_JOINER = "\n"  # what vLLM puts between the parts of a message whose template takes strings
_FIRST, _SECOND = "\u2402FIRST\u2403", "\u2402SECOND\u2403"


@dataclass(frozen=True)
class UpstreamPrompt:
    """What vLLM is to go on from.

    Attributes:
        path: Of the API.
        fields: Of the request's body, beside those that say how tokens are chosen.
    """

    path: str
    fields: dict[str, Any]


def content_format(tokenizer: Any) -> str:
    """How vLLM must hand messages of several parts to a tokenizer's chat template.

    Returns:
        `openai` if the template takes a list of parts and puts them one right after the other, else `string`:
        vLLM then joins them by line breaks. It is vLLM's option `--chat-template-content-format`.

    Raises:
        E2LLMError: If there is no chat template.
    """
    require_chat_template(tokenizer)
    parts = [{"type": "text", "text": text} for text in (_FIRST, _SECOND)]
    with contextlib.suppress(Exception):  # a template may fail in any way on what it was not written for
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        if _FIRST + _SECOND in text:
            return "openai"
    return "string"


def require_chat_template(tokenizer: Any) -> None:
    """Raise `E2LLMError` for a tokenizer without a chat template, as base models have."""
    if not getattr(tokenizer, "chat_template", None):
        raise E2LLMError(
            "the decoder's tokenizer has no chat template, which vLLM needs for conversations: use a decoder "
            "made for chat, or give the tokenizer the chat template that the decoder was trained with "
            "(processor.tokenizer.chat_template = ..., then processor.save_pretrained), or decode with "
            "--url"
        )


def encode_rows(rows: torch.Tensor) -> str:
    """Base64 of `torch.save` of `[n, D]`, the form that vLLM documents; the same for the same numbers."""
    own = rows.detach().to("cpu").contiguous().clone()  # a view would bring all that it is a view of
    stream = io.BytesIO()
    torch.save(own, stream)
    return base64.b64encode(stream.getvalue()).decode("ascii")


@dataclass(frozen=True)
class _Run:
    """Soft tokens that stand together.

    Attributes:
        start: Index of the first in the prompt.
        length: n.
    """

    start: int
    length: int


class PromptWriter:
    """Writes prompts for vLLM; may be used by several threads.

    Args:
        engine: The model whose decoder vLLM runs.

    Raises:
        E2LLMError: If the decoder's tokenizer has no chat template.
    """

    def __init__(self, engine: Engine) -> None:
        processor = engine.processor
        self.format = content_format(processor.tokenizer)
        self._tokenizer: Any = copy.deepcopy(processor.tokenizer)
        self._model = engine.model
        self._token = processor.chunk_token
        self._token_id = processor.chunk_token_id
        self._dtype = engine.model.get_input_embeddings().weight.dtype
        self._lock = threading.Lock()

    @torch.inference_mode()
    def write(self, prompt: DecoderPrompt) -> UpstreamPrompt:
        """Write one prompt."""
        ids, soft = prompt.laid.sample.input_ids, prompt.laid.soft_tokens
        if prompt.is_chat:
            runs = list(self._runs(ids))
            messages = self._messages(prompt, runs)
            if self._reads_alike(messages, runs, ids):
                embeds = self._embed(ids, soft) if runs else torch.empty(0)
                return UpstreamPrompt(CHAT_PATH, self._chat_fields(messages, embeds))
        if soft is not None:
            return UpstreamPrompt(TEXT_PATH, {"prompt_embeds": encode_rows(self._embed(ids, soft))})
        is_text = not prompt.is_chat and self._is_read_as(prompt.request.question, ids)
        return UpstreamPrompt(TEXT_PATH, {"prompt": prompt.request.question if is_text else ids})

    def _embed(self, ids: list[int], soft: torch.Tensor | None) -> torch.Tensor:
        """`[L, D]` of a prompt, soft tokens in the places of the placeholders."""
        device = self._model.get_input_embeddings().weight.device
        soft = None if soft is None else soft.to(device)
        embeds: torch.Tensor = self._model.merge(torch.tensor([ids], device=device), chunk_embeds=soft)[0]
        return embeds.to(self._dtype)

    def _is_read_as(self, text: str, ids: list[int]) -> bool:
        """Whether vLLM reads a text without a template as these ids."""
        with self._lock:
            read = self._tokenizer(text).input_ids
        return list(read) == ids and RESERVED_TEXT not in text

    def _runs(self, ids: Sequence[int]) -> Iterator[_Run]:
        """Where soft tokens stand."""
        start = None
        for place, token in enumerate([*ids, None]):
            if token == self._token_id:
                start = place if start is None else start
            elif start is not None:
                yield _Run(start, place - start)
                start = None

    # --- messages -----------------------------------------------------------------------------------------

    def _messages(self, prompt: DecoderPrompt, runs: Sequence[_Run]) -> list[tuple[str, list[str | _Run]]]:
        """Role and pieces of each message; the context is part of the first one."""
        laid, request = prompt.laid, prompt.request
        turns = [*request.history, (request.question, None)]
        expanded, coming = set(laid.plan.expand), iter(runs)
        pieces: list[str | _Run] = []
        for index in laid.plan.kept:
            if index in expanded:
                _append_text(pieces, laid.content.texts[index])
            elif not pieces or isinstance(pieces[-1], str):
                pieces.append(next(coming))
        first = "\n\n" + turns[0][0]
        if self.format == "string" and pieces and isinstance(pieces[-1], _Run):
            first = first.removeprefix(_JOINER)
        _append_text(pieces, first)
        messages: list[tuple[str, list[str | _Run]]] = [("user", pieces)]
        for (_, answer), (question, _) in pairwise(turns):
            messages += [("assistant", [answer or ""]), ("user", [question])]
        return messages

    def _reads_alike(
        self, messages: Sequence[tuple[str, list[str | _Run]]], runs: Sequence[_Run], ids: list[int]
    ) -> bool:
        """Whether vLLM makes the ids that were laid out of messages."""
        texts = [piece for _, pieces in messages for piece in pieces if isinstance(piece, str)]
        if any(RESERVED_TEXT in text for text in texts):
            return False
        shown = []
        for role, pieces in messages:
            marked = [piece if isinstance(piece, str) else self._token for piece in pieces]
            content: Any = _JOINER.join(marked)
            if self.format == "openai":
                content = [{"type": "text", "text": text} for text in marked]
            shown.append({"role": role, "content": content})
        with self._lock:
            try:
                text = self._tokenizer.apply_chat_template(
                    shown, tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            except Exception:  # as templates refuse what they do not take, such as roles out of turn
                return False
            read = list(self._tokenizer(text, add_special_tokens=False).input_ids)
        lengths = [run.length for run in runs]
        if read.count(self._token_id) != len(lengths):
            return False
        coming = iter(lengths)
        return ids == [
            token for item in read for token in [item] * (next(coming) if item == self._token_id else 1)
        ]

    def _chat_fields(
        self, messages: Sequence[tuple[str, list[str | _Run]]], embeds: torch.Tensor
    ) -> dict[str, Any]:
        sent: list[dict[str, Any]] = []
        for role, pieces in messages:
            if len(pieces) == 1 and isinstance(pieces[0], str):
                sent.append({"role": role, "content": pieces[0]})
                continue
            parts = [
                {"type": "text", "text": piece}
                if isinstance(piece, str)
                else {
                    "type": "prompt_embeds",
                    "data": encode_rows(embeds[piece.start : piece.start + piece.length]),
                }
                for piece in pieces
            ]
            sent.append({"role": role, "content": parts})
        return {"messages": sent, "chat_template_kwargs": {"enable_thinking": False}}


def _append_text(pieces: list[Any], text: str) -> None:
    """Add a text behind pieces; texts that follow each other are one."""
    if pieces and isinstance(pieces[-1], str):
        pieces[-1] += text
    else:
        pieces.append(text)
