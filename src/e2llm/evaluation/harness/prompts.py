"""Which part of a prompt becomes context, and how the decoder's input is laid out around it.

lm_eval gives strings. Soft tokens replace the part of a prompt that the encoder reads; the text before and
after it stays raw.

Shapes: R soft tokens in all, D decoder width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.harness.settings import HarnessSettings
from e2llm.inference.content import Content
from e2llm.inference.engine import Engine
from e2llm.inference.options import AskRequest
from e2llm.inference.planning import Plan, Room
from e2llm.inference.reader import soft_tokens_of
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.surrogates import reject_lone_surrogates

Way = Literal["raw", "document", "overflow"]

_MAX_CONTEXTS = 8  # kept read: requests on one document follow each other


@dataclass(frozen=True)
class PromptParts:
    """A prompt cut in three: the text before the context, the context, and the text after it."""

    before: str
    context: str
    after: str


@dataclass(frozen=True)
class LaidPrompt:
    """A prompt as the decoder gets it: `head`, then the ids of `tail`.

    Attributes:
        way: `raw` for text alone, `document` if a field of the task became context, `overflow` if the older
            part of a long prompt did.
        head: Ids up to the last placeholder; empty without soft tokens.
        tail: The raw text after it; the whole prompt without soft tokens.
        soft_tokens: `[R, D]` for the placeholders; None without any.
        chunks: Context, and indices of its chunks that are given as soft tokens.
        left_out: Chunks given neither as soft tokens nor as text.
        num_context_tokens: Decoder tokens that the context's text would take.
        num_context_positions: Positions that it takes here.
    """

    way: Way
    head: list[int]
    tail: str
    soft_tokens: torch.Tensor | None = None
    chunks: tuple[str, tuple[int, ...]] = ("", ())
    left_out: int = 0
    num_context_tokens: int = 0
    num_context_positions: int = 0


def find_document(prompt: str, row: Mapping[str, Any], fields: Sequence[str]) -> PromptParts | None:
    """Find the task's document in a prompt.

    It is the longest of the named fields whose stripped text the prompt contains word for word; of several
    places the last. A field that is the whole prompt is no document: no question would be left beside it.

    Args:
        prompt: The prompt.
        row: The task's row.
        fields: Names of fields; `a.b` is the field b of the row that is the field a.
    """
    texts = [text for name in fields if (text := _field_text(row, name))]
    found = [text for text in texts if text in prompt and text != prompt.strip()]
    if not found:
        return None
    context = max(found, key=len)
    start = prompt.rfind(context)
    return PromptParts(prompt[:start], context, prompt[start + len(context) :])


def _field_text(row: Mapping[str, Any], name: str) -> str:
    value: Any = row
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value.strip() if isinstance(value, str) else ""


class PromptEncoder:
    """Encodes a prompt's raw text as lm_eval's `hf` model does, control tokens that it names included.

    Only the placeholder never comes out of a text.

    Attributes:
        start_ids: Ids that the tokenizer puts before a text.
    """

    def __init__(self, processor: E2LLMProcessor) -> None:
        self._tokenizer = processor.tokenizer
        self._placeholder = processor.chunk_token
        plain = self._tokenizer("a", add_special_tokens=False).input_ids
        whole = list(self._tokenizer("a").input_ids)
        places = [at for at in range(len(whole)) if whole[at : at + len(plain)] == plain]
        self.start_ids: list[int] = whole[: places[0]] if places else []
        self._start_text = self._tokenizer.decode(self.start_ids) if self.start_ids else ""

    def encode(self, text: str, *, at_start: bool = False) -> list[int]:
        """Return the ids of a text; at the start of the input after `start_ids`, unless the text has them."""
        ids = self.encode_with_places(text, offsets=False)[0]
        has_start = self._start_text and text.startswith(self._start_text)
        return [*self.start_ids, *ids] if at_start and not has_start else ids

    def encode_with_places(self, text: str, *, offsets: bool = True) -> tuple[list[int], list[int]]:
        """Return the ids of a text, and with `offsets` the character at which each begins.

        Raises:
            E2LLMError: If the text holds a lone surrogate, or the tokenizer does not report where its tokens
                begin.
        """
        reject_lone_surrogates(text, "the prompt")
        if offsets and not self._tokenizer.is_fast:
            raise E2LLMError(
                "this decoder's tokenizer does not report where its tokens begin; use overflow=truncate"
            )
        pieces = text.split(self._placeholder)
        for place in range(1, len(pieces)):  # cut within each, so that none becomes a control token
            pieces[place - 1] += self._placeholder[:1]
            pieces[place] = self._placeholder[1:] + pieces[place]
        ids: list[int] = []
        places: list[int] = []
        start = 0
        for piece in pieces:
            options = {"add_special_tokens": False, "verbose": False}
            encoded = self._tokenizer(piece, return_offsets_mapping=offsets, **options)
            ids += encoded.input_ids
            places += [start + begin for begin, _ in encoded.offset_mapping] if offsets else []
            start += len(piece)
        return ids, places


class PromptLayout:
    """Lays prompts out; contexts are read once for the requests that follow each other.

    Args:
        engine: Reads contexts.
        settings: How to lay out.

    Attributes:
        read: Returns the context of a text; the latest ones are kept.
        encoder: Encodes the text that stays raw.
        opening: Text at the start of a chat prompt that stays raw whatever is compressed after it.
    """

    def __init__(self, engine: Engine, settings: HarnessSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.encoder = PromptEncoder(engine.processor)
        self.opening = ""
        self.read = lru_cache(_MAX_CONTEXTS)(lambda text: engine.read(text, progress=False))
        self._count = lru_cache(_MAX_CONTEXTS)(lambda text: len(self.encoder.encode(text)))

    def lay_out(self, prompt: str, row: Mapping[str, Any], room: int) -> LaidPrompt:
        """Lay a prompt out in `room` positions.

        A prompt that stays raw may be longer than that.

        Args:
            prompt: The prompt that lm_eval made of a row of the task.
            row: That row.
            room: Positions that the prompt may take.

        Raises:
            ContextOverflowError: With `overflow="error"`, if chunks do not fit.
        """
        settings = self.settings
        raw = LaidPrompt("raw", [], prompt)
        if not settings.compresses:
            return raw
        parts = find_document(prompt, row, settings.context_field)
        if parts is not None and self._count(parts.context) >= settings.min_context_tokens:
            try:
                return self._with_context(parts, "document", room)
            except ContextOverflowError:
                if settings.overflow == "error":
                    raise
        if settings.overflow != "compress":
            return raw
        ids, places = self.encoder.encode_with_places(prompt)
        num_raw = settings.raw_tokens or max(1, room // 2)
        limit = room - len(self.encoder.start_ids) if settings.raw_tokens is None else min(num_raw, room)
        if len(ids) <= limit or num_raw >= len(ids):
            return raw
        return self._with_older_part(prompt, places[-num_raw], room) or raw

    def _with_older_part(self, prompt: str, cut: int, room: int) -> LaidPrompt | None:
        """Compress the prompt up to a character; None if that leaves no text to read."""
        cut = _next_break(prompt, cut)
        before = self.opening if prompt.startswith(self.opening) and len(self.opening) < cut else ""
        parts = PromptParts(before, prompt[len(before) : cut], prompt[cut:])
        if not parts.context.strip():
            return None
        try:
            return self._with_context(parts, "overflow", room)
        except ContextOverflowError:
            return None  # the raw end alone fills the room

    def _with_context(self, parts: PromptParts, way: Way, room: int) -> LaidPrompt:
        """Choose the form of each chunk so that all fits, and lay it out."""
        settings = self.settings
        content = self.read(parts.context).content
        request = AskRequest(
            question=f"{parts.before}\n{parts.after}",
            **{name: getattr(settings, name) for name in ("soft_tokens", "rate", "expand", "select")},
            overflow="error" if settings.overflow == "error" else "select",
        )
        around = self.encoder.encode(parts.before, at_start=True) + self.encoder.encode(parts.after)
        budget = room
        while True:
            fitting = Room.of(budget, None, len(around), 0)
            plan = self.engine.plan(content, request, fitting)
            laid = self._place(parts, content, plan, way)
            excess = len(laid.head) + len(self.encoder.encode(laid.tail, at_start=not laid.head)) - room
            if excess <= 0:
                return laid
            budget -= excess  # texts encoded together may take other tokens than each by itself

    def _place(self, parts: PromptParts, content: Content, plan: Plan, way: Way) -> LaidPrompt:
        """Put the chunks at the place of the context; adjacent raw texts are encoded as one."""
        expanded = set(plan.expand)
        head: list[int] = []
        text, raw_end = parts.before, 0
        for index, count in zip(plan.kept, plan.counts, strict=True):
            chunk = content.chunks[index]
            if index in expanded:
                text += chunk.text[max(0, raw_end - chunk.start) :]  # text that chunks repeat is given once
                raw_end = chunk.end
                continue
            head += self.encoder.encode(text, at_start=not head)
            head += [self.engine.processor.chunk_token_id] * count
            text, raw_end = "", 0
        rows = tuple(index for index in plan.kept if index not in expanded)
        counts = tuple(count for count in plan.counts if count)
        return LaidPrompt(
            way,
            head,
            text + parts.after,
            soft_tokens_of(self.engine.model, content.read, rows, counts) if rows else None,
            (parts.context, rows),
            plan.left_out,
            content.num_tokens,
            sum(counts) + sum(content.token_counts[index] for index in plan.expand),
        )


def _next_break(text: str, cut: int) -> int:
    """Return the end of a line soon after a place, else the end of a word, else the place itself."""
    end = cut + (len(text) - cut) // 4
    for mark in ("\n", " "):
        found = text.find(mark, cut, end)
        if found >= 0:
            return found + (mark == "\n")
    return cut
