"""The most decoder positions that a sample of a record can need, over all that a recipe may draw for it."""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from heapq import nlargest

from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import encoder_tokens
from e2llm.modeling.raw_text import lay_out_raw
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record
from e2llm.training.cropping import texts_of
from e2llm.training.schema import Recipe

_SLACK = 8  # tokens that a text may have more than characters, and a joined text more than its pieces
_GROWTH = 35  # by which a normalizer may lengthen a character beyond ASCII: U+FDFA becomes 18 of two bytes


class Positions:
    """Counts the positions of a recipe's longest samples.

    What is at most the window need not be exact, so that few texts are tokenized: a tokenizer makes at most
    one token of a byte.

    Args:
        recipe: The mix and its settings.
        processor: Splits contexts and lays samples out.
        window: Positions of the decoder.
    """

    def __init__(self, recipe: Recipe, processor: E2LLMProcessor, window: int) -> None:
        self.recipe = recipe
        self.processor = processor
        self.window = window
        settings = recipe.objectives
        weights = settings.soft_token_weights or [1.0] * len(settings.soft_tokens)
        self.soft_tokens = [k for k, weight in zip(settings.soft_tokens, weights, strict=True) if weight]
        self.finest: int | None = None
        if recipe.adapter.kind == "pooling":
            self.finest = min(map(encoder_tokens, settings.rates))
            longest = max([recipe.chunking.chunk_size_chars, *settings.understanding.chunk_sizes_chars])
            self.soft_tokens = [-(-min(processor.max_chunk_tokens, longest + 2) // self.finest)]
        self.num_soft_tokens = max(self.soft_tokens)
        self.fractions = settings.fractions()
        # Numbers are kept for all contexts, which the records hold anyhow, spans for a few.
        self._restating = lru_cache(maxsize=None)(self._restate)
        self._num_chunks = lru_cache(maxsize=None)(self._count_chunks)
        self._spans = lru_cache(maxsize=64)(self._find_spans)

    def count(self, record: Record, objectives: Collection[str]) -> int:
        """The most positions that a sample of a record needs; above the window the number is exact.

        Where chunks stand as raw text, other contexts' chunks around the record are taken to be soft. Runs of
        plain text have the length that the recipe gives them and are not counted.

        Args:
            record: The record.
            objectives: The objectives that it serves.
        """
        most = 0
        if "reasoning" in objectives and self.fractions["reasoning"] and not record.is_text_only:
            most = self._answering(record)
        if "understanding" in objectives and self.fractions["understanding"]:
            most = max(most, self._restating(record.context))
        return most

    # --- reasoning ----------------------------------------------------------------------------------------

    def _answering(self, record: Record) -> int:
        settings = self.recipe.objectives.reasoning
        if settings.context == "text":  # the context is cut to what question and answer leave
            return len(lay_out_raw(self.processor, "", record.prompt, record.answer).input_ids)
        if self.finest is not None:
            return self._answering_at(record, self.finest)
        most_raw = self._most_raw(record.context)
        texts = self._most_of_template() + most_tokens(record.prompt) + most_tokens(record.answer)
        for bound in (len, self._num_chunks):  # a chunk has a character at least
            num_chunks = bound(record.context)
            most_chunks = min(settings.max_chunks or num_chunks, num_chunks)
            soft = max(
                k * (most_chunks + 2 * settings.most_distractors_per_side(k)) for k in self.soft_tokens
            )
            if texts + soft + most_raw <= self.window:
                return texts + soft + most_raw
        texts = len(self.processor.lay_out([], record.prompt, record.answer).input_ids)
        if texts + soft + most_raw <= self.window or not most_raw:
            return texts + soft + most_raw
        return texts + soft + self._raw(record)

    def _answering_at(self, record: Record, rate: int) -> int:
        """The most positions of a record whose chunks all have the finest rate, asked alone.

        Further turns and raw chunks are added to a sample only as far as they fit.
        """
        settings = self.recipe.objectives.reasoning
        texts = self._most_of_template() + most_tokens(record.prompt) + most_tokens(record.answer)
        others = 2 * settings.most_distractors_per_side(self.num_soft_tokens) * self.num_soft_tokens
        rough = texts + others + most_tokens(record.context) // rate + 4 * len(record.context) // rate
        if rough <= self.window:
            return rough
        spans = self._spans(record.context, self.recipe.chunking.chunk_size_chars)
        rows = self.processor.encode_chunk_ids(texts_of(record, spans))
        numbers = nlargest(settings.max_chunks or len(rows), (-(-len(row) // rate) for row in rows))
        texts = len(self.processor.lay_out([], record.prompt, record.answer).input_ids)
        return texts + others + sum(numbers)

    def _count_chunks(self, context: str) -> int:
        return len(self._spans(context, self.recipe.chunking.chunk_size_chars))

    def _most_raw(self, context: str) -> int:
        """A bound of the tokens that raw chunks have."""
        return self.recipe.most_expanded * self._most_restated(
            context, self.recipe.chunking.chunk_size_chars, 1
        )

    def _raw(self, record: Record) -> int:
        """How many positions raw chunks add at most to those of their soft tokens."""
        settings = self.recipe.objectives.reasoning
        spans = self._spans(record.context, self.recipe.chunking.chunk_size_chars)
        rows = self.processor.encode_all(texts_of(record, spans))
        gains = [max(0, len(row) - self.num_soft_tokens) for row in rows]
        gold = [any(a < end and start < b for a, b in record.evidence) for start, end in spans]
        most = 0
        for first, last in reachable_runs(gold, settings.max_chunks, keep_all=settings.keep_all_evidence):
            most = max(most, sum(nlargest(settings.expand_max_chunks, gains[first:last])))
        return most

    # --- understanding ------------------------------------------------------------------------------------

    def _restate(self, context: str) -> int:
        settings = self.recipe.objectives.understanding
        longest = max(settings.window_chunks)
        most = 0
        for size in settings.chunk_sizes_chars or [self.recipe.chunking.chunk_size_chars]:
            needed = self._most_of_template() + most_tokens(UNDERSTANDING_PROMPT)
            needed += self.num_soft_tokens * longest + self._most_restated(context, size, longest)
            if needed > self.window:
                needed = self._longest_window(context, self._spans(context, size), longest)
            most = max(most, needed)
        return most

    def _longest_window(self, context: str, spans: Sequence[tuple[int, int]], longest: int) -> int:
        """Positions of the longest window of chunks, or of the first one that does not fit."""
        count = min(longest, len(spans))
        soft = self.num_soft_tokens * count
        rows = self.processor.encode_all([context[start:end] for start, end in spans])
        most = 0
        template = self._most_of_template() + most_tokens(UNDERSTANDING_PROMPT)
        stride = self.recipe.objectives.understanding.stride_chunks
        for first in range(0, len(spans) - count + 1, stride):
            needed = template + soft + sum(len(row) + _SLACK for row in rows[first : first + count])
            if needed > self.window:
                answer = context[spans[first][0] : spans[first + count - 1][1]].strip()
                needed = soft + len(self.processor.lay_out([], UNDERSTANDING_PROMPT, answer).input_ids)
            if needed > self.window:
                return needed
            most = max(most, needed)
        return most

    # --- bounds -------------------------------------------------------------------------------------------

    def _most_restated(self, context: str, chunk_size_chars: int, num_chunks: int) -> int:
        """A bound of the tokens of neighbouring chunks."""
        longest = len(context)
        if self.recipe.chunking.kind != "tokens":
            longest = min(longest, chunk_size_chars * num_chunks)
        beyond_ascii = 0 if context.isascii() else min(len(context.encode()) - len(context), 3 * longest)
        return longest + _GROWTH * beyond_ascii + _SLACK

    def _most_of_template(self) -> int:
        template = self.processor.template
        fixed = (
            template.before_context,
            template.before_prompt,
            template.before_answer,
            template.after_answer,
        )
        return sum(map(len, fixed)) + 2 * most_tokens(template.answer_prefix)

    def _find_spans(self, text: str, chunk_size_chars: int) -> list[tuple[int, int]]:
        chunks = self.processor.split(text, chunk_size_chars=chunk_size_chars)
        return [(chunk.start, chunk.end) for chunk in chunks]


def most_tokens(text: str) -> int:
    """A bound of a text's tokens that needs no tokenizer."""
    return len(text) + _GROWTH * (len(text.encode()) - len(text)) + _SLACK


def reachable_runs(
    gold: Sequence[bool], max_chunks: int | None, *, keep_all: bool
) -> Iterator[tuple[int, int]]:
    """The runs of chunks that `e2llm.training.samples.crop` may draw."""
    if max_chunks is None or len(gold) <= max_chunks:
        yield 0, len(gold)
        return
    golden = [index for index, is_gold in enumerate(gold) if is_gold]
    if not golden:
        yield 0, max_chunks
        return
    kept = [(index, index) for index in golden]
    if keep_all and golden[-1] - golden[0] < max_chunks:
        kept = [(golden[0], golden[-1])]
    firsts = {
        first
        for lowest, highest in kept
        for first in range(max(0, highest - max_chunks + 1), min(lowest, len(gold) - max_chunks) + 1)
    }
    for first in sorted(firsts):
        yield first, first + max_chunks
