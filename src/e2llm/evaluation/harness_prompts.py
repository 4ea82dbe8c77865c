"""What of a prompt becomes context, and how the decoder's input is laid out around it.

lm_eval gives strings. The part of a prompt that the encoder reads is replaced, where it stands, by the soft
tokens of its chunks; what stands before and after stays raw text in its order.

Shapes: R soft tokens in all, D decoder width.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.harness_settings import HarnessSettings
from e2llm.inference.content import Content
from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.inference.layout import rank_chunks
from e2llm.inference.planning import Plan, choose_expanded, make_plan, plan_raw
from e2llm.inference.reader import soft_tokens_of
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.surrogates import reject_lone_surrogates

Way = Literal["raw", "document", "overflow"]

_MAX_CONTEXTS = 8  # kept read: requests on one document follow each other


@dataclass(frozen=True)
class PromptParts:
    """A prompt cut in three: what stands before the context, the context, and what stands after it."""

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
        soft_tokens: `[R, D]` of the chunks that the placeholders stand for; None without any.
        source: Context, indices of its chunks and numbers of soft tokens; equal for equal `soft_tokens`.
        left_out: Chunks that neither stand as soft tokens nor as text.
        num_context_tokens: Decoder tokens that the context's text would take.
        num_context_positions: Positions that it takes here.
    """

    way: Way
    head: list[int]
    tail: str
    soft_tokens: torch.Tensor | None = None
    source: tuple[str, tuple[int, ...], tuple[int, ...]] = ("", (), ())
    left_out: int = 0
    num_context_tokens: int = 0
    num_context_positions: int = 0


def find_document(prompt: str, row: Mapping[str, Any], fields: Sequence[str]) -> PromptParts | None:
    """Find the task's document in a prompt.

    The longest of the named fields whose text, without white space around it, stands in the prompt word for
    word; where it stands several times, the last place. A field that is the whole prompt is no document: no
    question would be left beside it.

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


class RawText:
    """Encodes a prompt's raw text as lm_eval's `hf` model does, control tokens that it names included.

    Only the placeholder never comes out of a text.

    Args:
        processor: Its decoder tokenizer is used.

    Attributes:
        start_ids: What the tokenizer puts before a text.
        prefix_id: What stands before a text that is scored from its first token: the token that begins a
            text, or the one that ends it.
    """

    def __init__(self, processor: E2LLMProcessor) -> None:
        self._tokenizer = processor.tokenizer
        self._placeholder = processor.chunk_token
        self._placeholder_id = processor.chunk_token_id
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self.prefix_id: int | None = eos if bos is None else bos
        plain = self._tokenizer("a", add_special_tokens=False).input_ids
        whole = list(self._tokenizer("a").input_ids)
        places = [at for at in range(len(whole)) if whole[at : at + len(plain)] == plain]
        self.start_ids: list[int] = whole[: places[0]] if places else []
        self._prefix_text = "" if self.prefix_id is None else self._tokenizer.decode([self.prefix_id])

    def encode(self, text: str, *, at_start: bool = False) -> list[int]:
        """Ids of a text; at the start of the input after `start_ids`, unless the text brings them."""
        ids = self.encode_with_places(text, offsets=False)[0]
        brings_start = self._prefix_text and text.startswith(self._prefix_text)
        return [*self.start_ids, *ids] if at_start and not brings_start else ids

    def encode_with_places(self, text: str, *, offsets: bool = True) -> tuple[list[int], list[int]]:
        """Ids of a text, and with `offsets` the character at which each begins.

        Raises:
            E2LLMError: If the text holds a lone surrogate, encodes to the placeholder, or the tokenizer
                does not say where its tokens begin.
        """
        reject_lone_surrogates(text, "the prompt")
        if offsets and not self._tokenizer.is_fast:
            raise E2LLMError(
                "this decoder's tokenizer does not say where its tokens begin; use overflow=truncate and "
                "rolling=plain"
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
        if self._placeholder_id in ids:
            raise E2LLMError(f"the prompt encodes to the placeholder {self._placeholder!r}")
        return ids, places

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids, white space around it kept."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


class PromptLayout:
    """Lays prompts out; contexts are read once for the requests that follow each other.

    Args:
        engine: Reads contexts.
        settings: How to lay out.

    Attributes:
        raw_text: Encodes what stays raw.
        opening: Text at the start of a chat prompt that stays raw whatever is compressed after it.
    """

    def __init__(self, engine: Engine, settings: HarnessSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.raw_text = RawText(engine.processor)
        self.opening = ""
        self._contexts: OrderedDict[str, Context] = OrderedDict()

    def read(self, text: str) -> Context:
        """The context of a text, from among the latest ones if it was read before."""
        if text in self._contexts:
            self._contexts.move_to_end(text)
        else:
            self._contexts[text] = self.engine.read(text, progress=False)
            if len(self._contexts) > _MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        return self._contexts[text]

    def lay_out(self, prompt: str, row: Mapping[str, Any], room: int) -> LaidPrompt:
        """Lay a prompt out in `room` positions.

        A prompt that stays raw may be longer than that; `overflow` says what becomes of it.

        Args:
            prompt: What lm_eval made of a row of the task.
            row: That row.
            room: Positions that the prompt may take.

        Raises:
            ContextOverflowError: With `overflow="error"`, if chunks do not fit.
        """
        settings = self.settings
        raw = LaidPrompt("raw", [], prompt)
        if not settings.compresses:
            return raw
        parts = find_document(prompt, row, settings.context_fields)
        if parts is not None and self._is_long(parts.context):
            try:
                return self._with_context(parts, "document", room)
            except ContextOverflowError:
                if settings.overflow == "error":
                    raise
        if settings.overflow != "compress":
            return raw
        ids, places = self.raw_text.encode_with_places(prompt)
        num_raw = settings.raw_tokens or max(1, room // 2)
        limit = room - len(self.raw_text.start_ids) if settings.raw_tokens is None else min(num_raw, room)
        if len(ids) <= limit or num_raw >= len(ids):
            return raw
        return self._with_older_part(prompt, places[-num_raw], room) or raw

    def _is_long(self, document: str) -> bool:
        if document in self._contexts:
            return True
        return len(self.raw_text.encode(document)) >= self.settings.min_context_tokens

    def _with_older_part(self, prompt: str, cut: int, room: int) -> LaidPrompt | None:
        """The prompt with what stands before a character compressed; None if that leaves nothing to read."""
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
        question = f"{parts.before}\n{parts.after}"
        expand: list[int] = []
        if settings.expand:
            expand = choose_expanded(
                self._rank(content, question),
                content.token_counts,
                count=settings.expand,
                max_tokens=None,
                only_positive=settings.select == "bm25",
            )
        around = self.raw_text.encode(parts.before, at_start=True) + self.raw_text.encode(parts.after)
        window, lengths = room, content.read.num_tokens.tolist()
        is_raw = self.engine.dial.answers_raw(settings.rate)
        levels = self.engine.dial.levels(lengths, settings.soft_tokens, settings.rate)
        while True:
            plan = (
                self._plan_raw(content, len(around), window, question)
                if is_raw
                else make_plan(
                    content.token_counts,
                    levels,
                    overhead=len(around),
                    expand=expand,
                    window=window,
                    max_new_tokens=0,
                    is_wanted=settings.soft_tokens is not None or settings.rate is not None,
                    overflow="error" if settings.overflow == "error" else "select",
                    rank=lambda: self._rank(content, question),
                    may_drop=True,
                )
            )
            if not plan.kept:
                raise ContextOverflowError("the text around the context leaves no room for any chunk of it")
            laid = self._place(parts, content, plan, way)
            excess = len(laid.head) + len(self.raw_text.encode(laid.tail, at_start=not laid.head)) - room
            if excess <= 0:
                return laid
            window -= excess  # texts encoded together may take other tokens than each by itself

    def _plan_raw(self, content: Content, overhead: int, window: int, question: str) -> Plan:
        """The best chunks as text, for a model whose adapter is not trained."""
        return plan_raw(
            content.token_counts,
            overhead=overhead,
            expand=(),
            window=window,
            max_new_tokens=0,
            max_tokens=None,
            rank=lambda: self._rank(content, question),
        )

    def _rank(self, content: Content, question: str) -> list[float]:
        """Relevance of each chunk to the rest of the prompt."""
        return rank_chunks(self.engine.reader, content, question, self.settings.select)

    def _place(self, parts: PromptParts, content: Content, plan: Plan, way: Way) -> LaidPrompt:
        """Put the chunks where the context stood; raw texts that touch are encoded as one."""
        expanded = set(plan.expand)
        head: list[int] = []
        text, raw_end = parts.before, 0
        for index, count in zip(plan.kept, plan.counts, strict=True):
            chunk = content.chunks[index]
            if index in expanded:
                text += chunk.text[max(0, raw_end - chunk.start) :]  # what chunks repeat is given once
                raw_end = chunk.end
                continue
            head += self.raw_text.encode(text, at_start=not head)
            head += [self.engine.processor.chunk_token_id] * count
            text, raw_end = "", 0
        rows = tuple(index for index in plan.kept if index not in expanded)
        counts = tuple(count for count in plan.counts if count)
        return LaidPrompt(
            way,
            head,
            text + parts.after,
            soft_tokens_of(self.engine.model, content.read, rows, counts) if rows else None,
            (parts.context, rows, counts),
            plan.left_out,
            content.num_tokens,
            sum(counts) + sum(content.token_counts[index] for index in plan.expand),
        )


def _next_break(text: str, cut: int) -> int:
    """The end of a line soon after a place, else the end of a word, else the place itself."""
    end = cut + (len(text) - cut) // 4
    for mark in ("\n", " "):
        found = text.find(mark, cut, end)
        if found >= 0:
            return found + (mark == "\n")
    return cut
