"""Records to measure training with, and how much of a batch is padding."""

from collections.abc import Sequence

import torch

from e2llm.inference.engine import Engine
from e2llm.modeling.merging import plan_passes
from e2llm.records import Record
from e2llm.training.collator import SampleCollator
from e2llm.training.samples import Sample
from e2llm.training.schema import Recipe

_QUOTED_WORDS = 8
_ANSWER_WORDS = 16


def make_records(text: str, num_contexts: int, num_questions: int) -> list[Record]:
    """Contexts of equal length, cut from a text, each with questions on what follows some of its words."""
    size = len(text) // num_contexts
    records = []
    for number in range(num_contexts):
        context = text[number * size : (number + 1) * size]
        words = context.split()
        for question in range(num_questions):
            at = (question + 1) * len(words) // (num_questions + 1)
            quoted = " ".join(words[at : at + _QUOTED_WORDS])
            answer = " ".join(words[at + _QUOTED_WORDS : at + _QUOTED_WORDS + _ANSWER_WORDS])
            records.append(
                Record(context, f"Question {question}: what follows '{quoted}'?", answer or "Nothing.")
            )
    return records


def padding_shares(engine: Engine, samples: Sequence[Sample], way: str, recipe: Recipe) -> dict[str, float]:
    """Padding as a share of what encoder and decoder compute for the first batch.

    Returns:
        `encoder_padding` and `decoder_padding`, 0 to 1.
    """
    size = recipe.train.batch_size
    batch = [samples[number] for number in range(size)]
    rows = [len(sample.decoder_input.input_ids) for sample in batch]
    if way == "plain":
        computed, read = 0, 0
        for sample in batch:
            lengths = [len(ids) for ids in engine.processor.encode_chunk_ids(sample.decoder_input.chunks)]
            computed += len(lengths) * max(lengths, default=0)
            read += sum(lengths)
        return {"encoder_padding": 1 - read / max(1, computed), "decoder_padding": 0.0}
    collated = SampleCollator(engine.processor, packs=recipe.train.packing)(batch)
    mask = collated["chunk_attention_mask"]
    passes = plan_passes(mask, engine.model.config.encoder_batch_tokens)
    computed = sum(len(numbers) * length for numbers, length in passes)
    return {
        "encoder_padding": 1 - int(mask.sum()) / computed,
        "decoder_padding": 1 - sum(rows) / torch.numel(collated["input_ids"]),
    }
