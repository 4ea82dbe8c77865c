"""The most decoder positions that a sample of a record can need, over all that a recipe may draw for it."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from heapq import nlargest

from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import encoder_tokens
from e2llm.modeling.raw_text import lay_out_raw
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.levels import MOST_RAW
from e2llm.training.samples.sample_set import texts_of

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
        self.finest: int | None = None  # rate of the pooling adapter
        self.soft_tokens = sorted(set(settings.soft_tokens))
        if recipe.adapter.kind == "pooling":
            self.finest = min(map(encoder_tokens, settings.rates))
            longest = max([recipe.chunking.chunk_size_chars, *settings.understanding.chunk_sizes_chars])
            self.soft_tokens = [-(-min(processor.max_chunk_tokens, longest + 2) // self.finest)]
        self.num_soft_tokens = max(self.soft_tokens)
        self.fractions = settings.fractions()
        # Numbers are kept for all contexts, which the records hold anyhow, spans for a few.
        self._restating = lru_cache(maxsize=None)(self._restate)
        self._spans = lru_cache(maxsize=64)(self._find_spans)

    def count(self, record: Record, objectives: Collection[str]) -> int:
        """The most positions that a sample of a record needs; above the window the number is exact.

        Chunks of other contexts count as soft, and so do raw chunks of the pooling adapter: a sample has them
        raw only as far as they fit.

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
        texts = self._most_of_template() + most_tokens(record.prompt) + most_tokens(record.answer)
        most = settings.most_distractors_per_side
        if self.finest is not None:
            others = 2 * most(self.num_soft_tokens) * self.num_soft_tokens
            context = (most_tokens(record.context) + 4 * len(record.context)) // self.finest
            if texts + others + context <= self.window:
                return texts + others + context
        spans = self._spans(record.context, self.recipe.chunking.chunk_size_chars)
        if self.finest is not None:
            rows = self.processor.encode_chunk_ids(texts_of(record, spans))
            lengths = (-(-len(row) // self.finest) for row in rows)
            soft = others + sum(nlargest(settings.max_chunks or len(rows), lengths))
        else:
            num_chunks = min(settings.max_chunks or len(spans), len(spans))
            soft = max(k * (num_chunks + 2 * most(k)) for k in self.soft_tokens)
            if self.recipe.objectives.mixed_fraction:
                rows = self.processor.encode_all(texts_of(record, spans))
                soft += sum(nlargest(MOST_RAW, (max(0, len(row) - self.num_soft_tokens) for row in rows)))
            if texts + soft <= self.window:
                return texts + soft
        return soft + len(self.processor.lay_out([], record.prompt, record.answer).input_ids)

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
        for first in range(len(spans) - count + 1):
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
