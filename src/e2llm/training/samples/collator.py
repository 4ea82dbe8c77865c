"""Turn samples into batches of tensors.

Shapes: R rows of the batch, L decoder tokens of a row, C distinct chunks of the whole batch, P places of
chunks, T encoder tokens per chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from e2llm.modeling.decoder_input import DecoderInput, numbers_per_place
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.prompts import IGNORE_INDEX
from e2llm.training.samples.levels import count_levels


@dataclass(frozen=True)
class Sample:
    """A laid-out sample.

    Attributes:
        decoder_input: Its tokens, labels and chunk texts.
        objective: The objective it serves, an index into `OBJECTIVES`.
        index: Its number in the run.
        levels: With the pooling adapter, each chunk's rate or `text`.
        teacher: The same answers after the context as raw text, for soft targets.
    """

    decoder_input: DecoderInput
    objective: int = 0
    index: int = 0
    levels: tuple[str, ...] = ()
    teacher: DecoderInput | None = None


@dataclass(frozen=True)
class SampleCollator:
    """Makes batches of samples; a class, so that worker processes can receive it.

    Attributes:
        processor: Pads decoder inputs and tokenizes chunks.
        packs: Put several samples into a row where they fit beside the batch's longest, instead of
            padding; `position_ids` that start again at 0 keep them apart.
        one_row: Pack all samples of a batch into a single row, for attention that reads each by itself
            (`e2llm.training.cpu_speed`).
    """

    processor: E2LLMProcessor
    packs: bool = False
    one_row: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            `input_ids`, `labels`, `objectives` (indices into `OBJECTIVES`) and `attention_mask` or, where
            samples are packed, `position_ids`, each `[R, L]`. If there are chunks, each distinct one once:
            `chunk_input_ids` and `chunk_attention_mask` `[C, T]`; `chunk_index` `[P]`, if one occurs at
            several places; `chunk_num_soft_tokens` `[P]`, if they differ. `teacher` has the inputs, mask and
            labels of the samples with soft targets, in the order of the batch; `levels` how many chunks have
            each rate, or are `text`.
        """
        rows = [[sample] for sample in samples]
        if self.packs:
            rows = [list(samples)] if self.one_row else pack(samples)
        chunks = [text for row in rows for sample in row for text in sample.decoder_input.chunks]
        texts: dict[str, int] = {}
        index = [texts.setdefault(text, len(texts)) for text in chunks]
        batch = self._pack(rows) if self.packs else self._pad(samples)
        if texts:
            batch.update(self.processor.encode_chunk_texts(list(texts)))
            batch.update(numbers_per_place([sample.decoder_input for row in rows for sample in row]))
            if len(texts) < len(index):
                batch["chunk_index"] = torch.tensor(index)
        taught = [sample.teacher for row in rows for sample in row if sample.teacher is not None]
        if taught:
            inputs = [DecoderInput(item.input_ids, item.labels) for item in taught]
            batch["teacher"] = dict(self.processor.collate(inputs, with_labels=True))
        if levels := count_levels([sample.levels for sample in samples]):
            batch["levels"] = levels
        return batch

    def _pad(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return a row per sample, padded on the left."""
        inputs = [DecoderInput(item.decoder_input.input_ids, item.decoder_input.labels) for item in samples]
        batch = dict(self.processor.collate(inputs, with_labels=True))
        objectives = torch.tensor([sample.objective for sample in samples])
        batch["objectives"] = objectives[:, None].expand_as(batch["labels"]).contiguous()
        return batch

    def _pack(self, rows: Sequence[Sequence[Sample]]) -> dict[str, Any]:
        """Return rows of several samples, filled up on the right."""
        length = max(sum(len(item.decoder_input.input_ids) for item in row) for row in rows)
        data: dict[str, list[list[int]]] = {
            "input_ids": [], "labels": [], "objectives": [], "position_ids": []
        }  # fmt: skip
        for row in rows:
            ids: list[int] = []
            labels: list[int] = []
            objectives: list[int] = []
            positions: list[int] = []
            for sample in row:
                count = len(sample.decoder_input.input_ids)
                ids += sample.decoder_input.input_ids
                # The first token of a sample is predicted by none: the position before is another's.
                labels += [IGNORE_INDEX, *sample.decoder_input.labels[1:]]
                objectives += [sample.objective] * count
                positions += range(count)
            rest = length - len(ids)
            data["input_ids"].append(ids + [self._filling] * rest)
            data["labels"].append(labels + [IGNORE_INDEX] * rest)
            data["objectives"].append(objectives + [0] * rest)
            data["position_ids"].append([*positions, *range(rest)])
        return {name: torch.tensor(values) for name, values in data.items()}

    @property
    def _filling(self) -> int:
        """A token to fill rows with; the placeholder would count as a chunk."""
        tokenizer = self.processor.tokenizer
        placeholder = tokenizer.convert_tokens_to_ids(self.processor.chunk_token)
        return next(item for item in (tokenizer.pad_token_id, 0, 1) if item != placeholder)


def pack(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Distribute samples over rows no longer than the longest: longest first, each where it first fits."""
    ordered = sorted(samples, key=lambda item: len(item.decoder_input.input_ids), reverse=True)
    room = len(ordered[0].decoder_input.input_ids)
    rows: list[list[Sample]] = []
    free: list[int] = []
    for sample in ordered:
        length = len(sample.decoder_input.input_ids)
        place = next((number for number, left in enumerate(free) if left >= length), None)
        if place is None:
            rows.append([])
            free.append(room)
            place = len(rows) - 1
        rows[place].append(sample)
        free[place] -= length
    return rows
