"""Ragged samples -> a batch of tensors.

Shapes: B samples, L decoder tokens, C chunks of the whole batch, T encoder tokens per chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from e2llm.modeling.processor import DecoderInput, E2LLMProcessor
from e2llm.training.samples import Sample


@dataclass(frozen=True)
class SampleCollator:
    """Pads samples into a batch; a class and no closure, so that worker processes can be given it.

    Attributes:
        processor: Pads decoder inputs and tokenizes chunks.
        keep_texts: Hand chunks on as texts, for the cache of encoder states, and tokenize none here.
    """

    processor: E2LLMProcessor
    keep_texts: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            `input_ids`, `attention_mask`, `labels` `[B, L]`, `objectives` `[B]` (indices into `OBJECTIVES`),
            and `chunk_input_ids` and `chunk_attention_mask` `[C, T]`, or with `keep_texts` the list
            `chunk_texts`.
        """
        inputs = [sample.decoder_input for sample in samples]
        texts = [text for item in inputs for text in item.chunks]
        if self.keep_texts:
            inputs = [DecoderInput(item.input_ids, item.labels) for item in inputs]
        batch = dict(self.processor.collate(inputs, with_labels=True))
        if self.keep_texts:
            batch["chunk_texts"] = texts
        batch["objectives"] = torch.tensor([sample.objective for sample in samples])
        return batch
