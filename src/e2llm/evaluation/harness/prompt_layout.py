"""How a prompt is laid out: settings, which part of it becomes context, and the decoder's input around it.

lm_eval gives strings. Soft tokens replace the part of a prompt that the encoder reads; the text before and
after it stays raw.

Shapes: R soft tokens in all, D decoder width.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field, model_validator

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.content import Content
from e2llm.inference.engine import Engine
from e2llm.inference.options import AskRequest, PolicyName, Selector
from e2llm.inference.planning import Plan, Room
from e2llm.inference.reader import soft_tokens_of
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import Rate, check_rate
from e2llm.modeling.raw_text import longest_suffix
from e2llm.surrogates import reject_lone_surrogates
from e2llm.validation import CheckedModel

_LAYOUT_OPTIONS = ("policy", "soft_tokens", "rate", "expand", "select")
_Way = Literal["raw", "document", "overflow"]
_MAX_CONTEXTS = 8  # kept read: requests on one document follow each other

# Fields with the document of a task in lm_eval 0.4.13: LongBench, InfiniteBench and SQuAD (context), RULER
# and BABILong (input), BoolQ and DROP (passage), RACE (article), SCROLLS (text), CoQA (story), ...
CONTEXT_FIELDS = (
    *("context", "input", "passage", "article", "document", "story", "text", "report", "transcript"),
    *("dialogue", "book", "content"),
)


def _fields(value: Any) -> Any:
    """Return field names from `a+b`, a list, or None for the usual ones."""
    if value is None:
        return CONTEXT_FIELDS
    names = value.split("+") if isinstance(value, str) else list(value)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise E2LLMError(
            f"context_field takes names of fields, such as context or passage+text; got {value!r}"
        )
    return tuple(name.strip() for name in names)


def _rate(value: Any) -> Any:
    """Return a checked rate; lm_eval's command line gives numbers as numbers or as text."""
    text = isinstance(value, str) and value.isdecimal()
    return value if value is None else check_rate(int(value) if text else value)


class HarnessSettings(CheckedModel):
    """How prompts are laid out; docs/harness.md describes each setting with examples.

    Attributes:
        policy: How the room is spent, as in `Engine.ask`; the rest of the prompt is the question.
        soft_tokens: Per chunk, 1 to the model's most; None for the policy's choice; 0 compresses nothing.
        rate: Encoder tokens per soft token (adapter `pooling`); None for the policy's choice.
        expand: Number of chunks to give as text; None for the policy's choice.
        select: How chunks are ranked.
        context_field: Fields of a task's row that may hold its document; a dot leads into a nested row.
        min_context_tokens: Shorter documents stay raw, in decoder tokens (chosen here: about one chunk).
        raw_tokens: With `overflow="compress"`, tokens at the end of a prompt without a known document that
            stay raw; the text before them is compressed even where the prompt would fit. None for half of
            the room, and only in prompts that do not fit.
        max_length: Positions to use; None for the decoder's window.
        max_gen_toks: Longest answer in tokens, for tasks that name none (lm_eval's default).
        overflow: A prompt without a known document that does not fit: compress its older part, cut it off as
            lm_eval's `hf` does, or raise an error. With `error`, chunks that do not fit are an error, too;
            otherwise the most relevant ones are kept.
    """

    policy: PolicyName | None = None
    soft_tokens: Annotated[int, Field(ge=0)] | None = None
    rate: Annotated[Rate | None, BeforeValidator(_rate)] = None
    expand: Annotated[int, Field(ge=0)] | None = None
    select: Selector = "bm25"
    context_field: Annotated[tuple[str, ...], BeforeValidator(_fields)] = CONTEXT_FIELDS
    min_context_tokens: Annotated[int, Field(ge=0)] = 128
    raw_tokens: Annotated[int, Field(ge=1)] | None = None
    max_length: Annotated[int, Field(ge=2)] | None = None
    max_gen_toks: Annotated[int, Field(ge=1)] = 256
    overflow: Literal["compress", "truncate", "error"] = "compress"

    @model_validator(mode="after")
    def _fit_together(self) -> "HarnessSettings":
        if self.raw_tokens is not None and self.overflow != "compress":
            raise E2LLMError(f"raw_tokens has no effect with overflow={self.overflow}; leave one of them out")
        if self.rate is not None and self.soft_tokens is not None:
            raise E2LLMError("soft_tokens and rate exclude each other; leave one out")
        if self.soft_tokens == 0 and (self.expand or self.raw_tokens is not None):
            raise E2LLMError(
                "expand and raw_tokens have no effect with soft_tokens=0, which compresses nothing; leave "
                "them out"
            )
        return self

    @property
    def compresses(self) -> bool:
        """Whether any text becomes soft tokens."""
        return self.soft_tokens != 0


class PromptParts(NamedTuple):
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
        num_left_out: Chunks given neither as soft tokens nor as text.
        num_context_tokens: Decoder tokens that the context's text would take.
        num_context_positions: Positions that it takes here.
    """

    way: _Way
    head: list[int]
    tail: str
    soft_tokens: torch.Tensor | None = None
    chunks: tuple[str, tuple[int, ...]] = ("", ())
    num_left_out: int = 0
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
    texts = []
    for name in fields:
        value: Any = row
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        text = value.strip() if isinstance(value, str) else ""
        if text and text in prompt and text != prompt.strip():
            texts.append(text)
    if not texts:
        return None
    context = max(texts, key=len)
    start = prompt.rfind(context)
    return PromptParts(prompt[:start], context, prompt[start + len(context) :])


class PromptEncoder:
    """Encodes a prompt's raw text as lm_eval's `hf` model does, control tokens that it names included.

    Only the placeholder never comes out of a text.

    Attributes:
        start_ids: Ids that the tokenizer puts before a text.
    """

    def __init__(self, processor: E2LLMProcessor) -> None:
        self._tokenizer = processor.tokenizer
        first, rest = processor.chunk_token[:1], processor.chunk_token[1:]
        self._within_placeholder = re.compile(f"(?<={re.escape(first)})(?={re.escape(rest)})")
        plain = self._tokenizer("a", add_special_tokens=False).input_ids
        whole = list(self._tokenizer("a").input_ids)
        places = [at for at in range(len(whole)) if whole[at : at + len(plain)] == plain]
        self.start_ids: list[int] = whole[: places[0]] if places else []
        self._start_text = self._tokenizer.decode(self.start_ids) if self.start_ids else ""

    def encode(self, text: str, *, at_start: bool = False) -> list[int]:
        """Return the ids of a text; at the start of the input after `start_ids`, unless the text has them.

        Raises:
            E2LLMError: If the text contains a lone surrogate.
        """
        reject_lone_surrogates(text, "the prompt")
        pieces = self._within_placeholder.split(text)
        rows = [self._tokenizer(piece, add_special_tokens=False, verbose=False).input_ids for piece in pieces]
        ids = [token for row in rows for token in row]
        has_start = self._start_text and text.startswith(self._start_text)
        return [*self.start_ids, *ids] if at_start and not has_start else ids


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
        self.read = lru_cache(_MAX_CONTEXTS)(lambda text: engine.read_text(text, progress=False))
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
        num_tokens, num_raw = len(self.encoder.encode(prompt)), settings.raw_tokens or max(1, room // 2)
        limit = room - len(self.encoder.start_ids) if settings.raw_tokens is None else min(num_raw, room)
        if num_tokens <= limit or num_raw >= num_tokens:
            return raw
        tail = longest_suffix(prompt, num_raw, lambda text: len(self.encoder.encode(text)))
        return self._with_older_part(prompt, len(prompt) - len(tail), room) or raw

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

    def _with_context(self, parts: PromptParts, way: _Way, room: int) -> LaidPrompt:
        """Choose the form of each chunk so that all fits, and lay it out."""
        settings = self.settings
        content = self.read(parts.context).content
        request = AskRequest(
            question=f"{parts.before}\n{parts.after}",
            **{name: getattr(settings, name) for name in _LAYOUT_OPTIONS},
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

    def _place(self, parts: PromptParts, content: Content, plan: Plan, way: _Way) -> LaidPrompt:
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
