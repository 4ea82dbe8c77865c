"""Make samples from records: windows to restate, and contexts with questions.

Sample `i` of a run depends on the seed and on `i` alone, so that a resumed run sees what it would have seen.
"""

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch.utils.data import Dataset

from e2llm.errors import E2LLMError
from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import Rate, count_soft_tokens
from e2llm.prompts import CONTINUE_PROMPT, UNDERSTANDING_PROMPT
from e2llm.records import Record
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.collator import Sample
from e2llm.training.samples.data_files import Source, pool_of
from e2llm.training.samples.levels import LevelDraw, Levels, around, choose_raw, crop
from e2llm.training.samples.text_contexts import TextContexts

OBJECTIVES = ("understanding", "reasoning")
_CHARS_PER_TOKEN = 4  # of English, about
_SIZE_KEYS = {
    "understanding": "objectives.understanding.window_chunks or chunk_sizes_chars, or objectives.soft_tokens",
    "reasoning": "objectives.reasoning.max_chunks or distractor_max_chunks, or objectives.soft_tokens",
}


class SampleSet(Dataset[Sample]):
    """A map-style data set of `num_samples` samples, drawn by the recipe's mix.

    Args:
        sources: The records.
        recipe: The mix and its settings.
        processor: Splits contexts and lays samples out.
        num_samples: Length.
        group_size: Samples that share one number of soft tokens: those of an optimizer step.
        window: Positions of the decoder; drawing a sample that needs more raises `E2LLMError`.
        only: Draw this objective alone (for evaluation).
        salt: Separates the draws of training and evaluation.
    """

    def __init__(
        self,
        sources: list[Source],
        recipe: Recipe,
        processor: E2LLMProcessor,
        num_samples: int,
        *,
        group_size: int = 1,
        window: int | None = None,
        only: str | None = None,
        salt: str = "train",
    ) -> None:
        self.recipe = recipe
        self.processor = processor
        self.num_samples = num_samples
        self.group_size = group_size
        self.window = window
        self.salt = salt
        fractions = recipe.objectives.fractions()
        self.objectives = [only] if only else [name for name in OBJECTIVES if fractions[name] > 0]
        self.objective_weights = [1.0 if only else fractions[name] for name in self.objectives]
        self.pools = {name: pool_of(sources, name) for name in self.objectives}
        for name, (records, _) in self.pools.items():
            if not records:
                raise E2LLMError(
                    f"no {salt} record serves the {name} objective; list {name} under 'objectives' of a data "
                    "file whose records can serve it (text-only records never serve reasoning), or set its "
                    "share to 0"
                )
        self._distracting = pool_of(sources, "distractors")
        if not self._distracting[0]:
            self._distracting = self.pools.get("reasoning", ([], []))
        self._questions: dict[str, list[Record]] = {}
        for record in (record for pool in self.pools.get("reasoning", ([], []))[0] for record in pool):
            self._questions.setdefault(record.context, []).append(record)
        is_rate = recipe.adapter.kind == "pooling" and recipe.objectives.reasoning.context != "text"
        self.levels = LevelDraw(recipe.objectives, recipe.seed) if is_rate else None
        self._wants_teacher = salt == "train" and recipe.objectives.distillation.teacher is not None
        self._start_caches()

    def _start_caches(self) -> None:
        self._spans = lru_cache(maxsize=4096)(self._find_spans)
        settings = self.recipe.objectives.reasoning
        self._texts: TextContexts | None = None
        if settings.context == "text":
            self._texts = TextContexts(self.processor, settings, self.window)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the caches, for a worker process."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_spans", "_texts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with empty caches."""
        self.__dict__.update(state)
        self._start_caches()

    def __len__(self) -> int:
        return self.num_samples

    def num_soft_tokens(self, index: int) -> int:
        """Return K of the optimizer step that sample `index` belongs to."""
        return self._group_rng("dial", index).choice(self.recipe.objectives.soft_tokens)

    def restated_chunk_size(self, index: int) -> int:
        """Return the chunk size in characters of a step's windows; one for all, to save padding."""
        sizes = self.recipe.objectives.understanding.chunk_sizes_chars
        return self._group_rng("size", index).choice(sizes or [self.recipe.chunking.chunk_size_chars])

    def _group_rng(self, purpose: str, index: int) -> random.Random:
        return random.Random(f"{self.recipe.seed}/{self.salt}/{purpose}/{index // self.group_size}")

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.num_samples:
            raise IndexError(index)
        rng = random.Random(f"{self.recipe.seed}/{self.salt}/{index}")
        objective = rng.choices(self.objectives, self.objective_weights)[0]
        pools, weights = self.pools[objective]
        record = rng.choice(rng.choices(pools, weights)[0])
        make = self._reasoning if objective == "reasoning" else self._understanding
        sample = make(record, index, rng)
        num_positions = len(sample.decoder_input.input_ids)
        if self.window is not None and num_positions > self.window:
            raise E2LLMError(
                f"a {objective} sample of record {record.id or record.prompt[:60]!r} needs {num_positions} "
                f"positions, but the decoder's window has {self.window}; lower {_SIZE_KEYS[objective]}"
            )
        return replace(sample, objective=OBJECTIVES.index(objective), index=index)

    # --- the two objectives ---------------------------------------------------------------------------

    def _understanding(self, record: Record, index: int, rng: random.Random) -> Sample:
        settings = self.recipe.objectives.understanding
        chunks = self._split(record.context, self.restated_chunk_size(index))
        count = min(rng.choice(settings.window_chunks), len(chunks))
        continues = rng.random() < settings.continue_fraction and len(chunks) > 1
        count = min(count, len(chunks) - continues)
        start = rng.randrange(len(chunks) - continues - count + 1)
        run = chunks[start : start + count]
        answered = chunks[start + count : start + count + 1] if continues else run
        answer = record.context[answered[0][0] : answered[-1][1]].strip()
        prompt = CONTINUE_PROMPT if continues else UNDERSTANDING_PROMPT
        texts = texts_of(record, run)
        if self.levels is not None:
            levels = self.levels.draw(count, index, rng, keep_soft=True)
            made = self.processor.lay_out(texts, prompt, answer, rate=levels.rates, expand=levels.expand)
            return Sample(made, levels=tuple(levels.names))
        made = self.processor.lay_out(texts, prompt, answer, num_soft_tokens=self.num_soft_tokens(index))
        return Sample(made)

    def _reasoning(self, record: Record, index: int, rng: random.Random) -> Sample:
        if self._texts is not None:
            return Sample(self._texts.draw(self._turns(record, rng), rng))
        settings = self.recipe.objectives.reasoning
        asked: Sequence[Record] = self._turns(record, rng)
        texts, gold = self._cropped(record, asked, rng)
        num_soft_tokens = self.num_soft_tokens(index)
        levels = None if self.levels is None else self.levels.draw(len(texts), index, rng)
        own = range(len(texts))
        if rng.random() < settings.distractor_fraction:
            per_chunk = num_soft_tokens if levels is None else self._soft_tokens_at(levels.rates[0])
            most = settings.most_distractors_per_side(per_chunk)
            before, after = self._distractors(most, rng), self._distractors(most, rng)
            own = range(len(before), len(before) + len(texts))
            texts = [*before, *texts, *after]
            gold = [*[False] * len(before), *gold, *[False] * len(after)]
            levels = levels and around(levels, len(before), len(after))
        if levels:
            expand = levels.expand
        else:
            is_mixed = rng.random() < self.recipe.objectives.mixed_fraction
            expand = choose_raw(gold, rng) if is_mixed else []
        dial: dict[str, Any] = {"rate": levels.rates} if levels else {"num_soft_tokens": num_soft_tokens}
        made, expand, asked = self._fitting(texts, asked, expand, gold, dial, rng)
        teacher = None
        if self._wants_teacher and levels:
            given = [texts[chunk] for chunk in own]
            teacher = self._lay_out(given, asked, expand=range(len(given)))
        names = () if levels is None else tuple(Levels(levels.rates, expand).names)
        return Sample(made, levels=names, teacher=teacher)

    def _lay_out(self, texts: Sequence[str], asked: Sequence[Record], **options: Any) -> DecoderInput:
        """Lay out chunks and the questions about them, each after the answer to the one before."""
        return self.processor.lay_out(
            texts,
            asked[-1].prompt,
            asked[-1].answer,
            history=[(item.prompt, item.answer) for item in asked[:-1]],
            labels_history=True,
            **options,
        )

    def _fitting(
        self,
        texts: Sequence[str],
        asked: Sequence[Record],
        expand: Sequence[int],
        gold: Sequence[bool],
        dial: dict[str, Any],
        rng: random.Random,
    ) -> tuple[DecoderInput, list[int], Sequence[Record]]:
        """Lay out as many raw chunks without evidence and as many turns as the window takes."""
        expand = list(expand)
        made = self._lay_out(texts, asked, expand=expand, **dial)
        while self.window is not None and len(made.input_ids) > self.window:
            others = [chunk for chunk in expand if not gold[chunk]]
            if others:
                expand.remove(rng.choice(others))
            elif len(asked) > 1:
                asked = asked[1:]
            else:
                break
            made = self._lay_out(texts, asked, expand=expand, **dial)
        return made, expand, asked

    def _turns(self, record: Record, rng: random.Random) -> list[Record]:
        """Return other questions about a record's context, as many as `turns` allows, and the record last."""
        most = self.recipe.objectives.reasoning.turns
        if most == 1:
            return [record]
        others = [item for item in self._questions[record.context] if item.prompt != record.prompt]
        return [*rng.sample(others, min(most - 1, len(others))), record]

    def _soft_tokens_at(self, rate: Rate) -> int:
        """Estimate the soft tokens of a whole chunk at a rate."""
        return count_soft_tokens(self.recipe.chunking.chunk_size_chars // _CHARS_PER_TOKEN, rate)

    def _cropped(
        self, record: Record, asked: Sequence[Record], rng: random.Random
    ) -> tuple[list[str], list[bool]]:
        """Return the chunks of a record for a sample, and which of them have evidence for its questions."""
        chunks = self._split(record.context, self.recipe.chunking.chunk_size_chars)
        evidence = [span for item in asked for span in item.evidence]
        gold = [any(a < end and start < b for a, b in evidence) for start, end in chunks]
        first, last = crop(gold, self.recipe.objectives.reasoning.max_chunks, rng)
        return texts_of(record, chunks[first:last]), gold[first:last]

    def _distractors(self, most: int, rng: random.Random) -> list[str]:
        """Return a run of at most `most` chunks of another context."""
        pools, weights = self._distracting
        other = rng.choice(rng.choices(pools, weights)[0])
        chunks = self._split(other.context, self.recipe.chunking.chunk_size_chars)
        count = rng.randint(0, min(len(chunks), most))
        start = rng.randrange(len(chunks) - count + 1)
        return texts_of(other, chunks[start : start + count])

    def _split(self, text: str, chunk_size_chars: int) -> list[tuple[int, int]]:
        """Return the character spans of a context's chunks."""
        bounds = self._spans(text, chunk_size_chars)
        return list(zip(bounds[::2], bounds[1::2], strict=True))

    def _find_spans(self, text: str, chunk_size_chars: int) -> "array[int]":
        """Return starts and ends as plain integers: lists of chunks of whole books would fill the memory."""
        chunks = self.processor.split(text, chunk_size_chars=chunk_size_chars)
        return array("q", [place for chunk in chunks for place in (chunk.start, chunk.end)])


def texts_of(record: Record, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Return the texts of chunks."""
    return [record.context[start:end] for start, end in spans]
