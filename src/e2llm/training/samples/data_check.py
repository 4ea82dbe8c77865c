"""Check a run's data before its first step: a fault is an error, or is left out with a note."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache, partial
from heapq import nlargest
from typing import Any

from transformers import AutoConfig

from e2llm.data.check import DataCheck
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.modeling.checkpoints.reporting import readable_errors
from e2llm.modeling.checkpoints.sources import find_model
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import encoder_tokens
from e2llm.modeling.raw_text import lay_out_raw
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record
from e2llm.training.build import existing, open_processor
from e2llm.training.console import is_first_process, say
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.data_files import Source, hold_out, load_sources
from e2llm.training.samples.levels import MOST_RAW
from e2llm.training.samples.sample_set import texts_of
from e2llm.training.samples.text_contexts import text_budgets

REPORT_FILE = "data.json"


class Positions:
    """Counts the positions of a recipe's longest samples.

    Numbers up to the window are upper bounds from lengths in bytes, since a tokenizer makes at most one token
    of a byte; only longer texts are tokenized.

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
        """Return the most positions that a sample of a record needs; above the window the number is exact.

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
                needed = self._longest_window(context, size, longest)
            most = max(most, needed)
        return most

    def _longest_window(self, context: str, chunk_size_chars: int, num_chunks: int) -> int:
        """Return the positions of the longest window of chunks."""
        spans = self._spans(context, chunk_size_chars)
        count = min(num_chunks, len(spans))
        windows = zip(spans, spans[count - 1 :], strict=False)
        answers = [context[first[0] : last[1]].strip() for first, last in windows]
        _, answer = max(zip(map(len, self.processor.encode_all(answers)), answers, strict=True))
        made = self.processor.lay_out([], UNDERSTANDING_PROMPT, answer)
        return self.num_soft_tokens * count + len(made.input_ids)

    # --- bounds -------------------------------------------------------------------------------------------

    def _most_restated(self, context: str, chunk_size_chars: int, num_chunks: int) -> int:
        """Return an upper bound of the tokens of neighbouring chunks."""
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
    """Return an upper bound of a text's tokens without a tokenizer."""
    return len(text) + _GROWTH * (len(text.encode()) - len(text)) + _SLACK


@dataclass
class RunData:
    """The records of a run and the faults in their files.

    Attributes:
        recipe: The resolved recipe.
        train: Training records.
        validation: Records to evaluate: separate files, or a share of the training records.
        check: The findings.
    """

    recipe: Recipe
    train: list[Source]
    validation: list[Source]
    check: DataCheck = field(default_factory=DataCheck)

    def check_window(self, processor: E2LLMProcessor, window: int | None) -> None:
        """Leave out records whose samples may exceed the window or a budget."""
        settings, limit = self.recipe.objectives.reasoning, window
        if settings.context == "text":
            limit = min((item for item in text_budgets(settings, window) if item is not None), default=None)
        if limit is not None:
            positions = Positions(self.recipe, processor, limit)
            self.train = [self._fitting(source, positions) for source in self.train]
            self.validation = [self._fitting(source, positions) for source in self.validation]

    def _fitting(self, source: Source, positions: Positions) -> Source:
        fits = self.check.check_window(
            source.file.path,
            zip(source.lines, source.records, strict=True),
            partial(positions.count, objectives=source.file.objectives),
            positions.window,
        )
        return source if all(fits) else source.part(fits)

    def finish(self) -> None:
        """Report the findings on stderr and in the run's folder.

        Raises:
            E2LLMError: If something is wrong with the data and is not to be left out, with every kind of
                finding and its first places.
        """
        mode = self.recipe.data.problems
        for line in self.check.lines(leaves_out=mode == "skip"):
            say(f"data: {line}")
        if is_first_process():
            report = json.dumps({"problems": mode, **self.check.to_dict()}, indent=2, ensure_ascii=False)
            write_atomically(self.recipe.folder / REPORT_FILE, f"{report}\n".encode())
        wrong = [item for item in self.check.errors if mode == "strict" or item.kind == "no_records"]
        if wrong:
            found = "; ".join(item.line() for item in wrong)
            other = ", or set data.problems: skip to leave that out" if mode == "strict" else ""
            raise E2LLMError(f"the data have errors: {found}. Correct the files{other}")


def read_data(recipe: Recipe) -> RunData:
    """Read a run's files; note bad lines, and training records that are also in validation.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    check = DataCheck()
    validation = load_sources(recipe.data.validation, partial(check.read, part="validation"))
    train = load_sources(recipe.data.train, partial(check.read, part="train"))
    if not recipe.data.validation:
        train, validation = hold_out(train, recipe.data.validation_fraction)
    return RunData(recipe, train, validation, check)


def open_parts(recipe: Recipe) -> tuple[E2LLMProcessor, int | None]:
    """Return the processor and the decoder's window, without any weights.

    Raises:
        E2LLMError: If a part cannot be read.
    """
    processor = open_processor(recipe)
    if recipe.init_from is not None:
        with readable_errors(f"config of {recipe.init_from}"):
            config: Any = E2LLMConfig.from_pretrained(
                find_model(existing(recipe.init_from, "init_from"))
            ).text_config
    else:
        name = str(recipe.decoder.source)
        with readable_errors(f"decoder {name}"):
            config = AutoConfig.from_pretrained(find_model(name), trust_remote_code=False)
    return processor, getattr(config, "max_position_embeddings", None)


_SLACK = 8  # tokens that a text may have more than characters, and a joined text more than its pieces
_GROWTH = 35  # by which a normalizer may lengthen a character beyond ASCII: U+FDFA becomes 18 of two bytes
