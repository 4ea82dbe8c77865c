"""Token states of a frozen encoder, kept in memory so that a chunk seen again is not encoded again."""

from collections import OrderedDict
from collections.abc import Sequence

import torch

from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor


class EncoderStateCache:
    """Least-recently-used cache from chunk text to half-precision token states on the CPU.

    Args:
        model: Its encoder must be frozen.
        processor: Tokenizes the chunks.
        max_bytes: Limit of what is kept.
    """

    def __init__(
        self, model: E2LLMForConditionalGeneration, processor: E2LLMProcessor, max_bytes: int
    ) -> None:
        if any(parameter.requires_grad for parameter in model.chunk_encoder.parameters()):
            raise ValueError(
                "encoder states can be cached only for a frozen encoder: set encoder.mode: frozen"
            )
        self.model = model
        self.processor = processor
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0
        self._states: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token states `[C, T, E]` in half precision and their mask `[C, T]`, in the order of the texts."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._states))
        self.num_misses += len(missing)
        self.num_hits += len(texts) - len(missing)
        fresh = self._encode(missing)
        rows = []
        for text in texts:
            if text in fresh:
                rows.append(fresh[text])
            else:
                self._states.move_to_end(text)
                rows.append(self._states[text])
        for text, states in fresh.items():
            self._states[text] = states
            self.num_bytes += states.nbytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._states.popitem(last=False)[1].nbytes
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(states.shape[1])[None] < lengths[:, None]).long()
        device = next(self.model.adapter.parameters()).device
        return states.to(device), mask.to(device)

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Encode texts in passes of similar length."""
        device = next(self.model.chunk_encoder.parameters()).device
        by_length = sorted(texts, key=len, reverse=True)
        size = max(1, self.model.config.encoder_batch_tokens // self.processor.max_chunk_tokens)
        fresh: dict[str, torch.Tensor] = {}
        for start in range(0, len(by_length), size):
            batch = by_length[start : start + size]
            inputs = self.processor.encode_chunk_texts(batch)
            mask = inputs["chunk_attention_mask"].to(device)
            states = self.model.encode_states(inputs["chunk_input_ids"].to(device), mask).half().cpu()
            for text, row, length in zip(batch, states, mask.sum(dim=1).tolist(), strict=True):
                fresh[text] = row[:length].clone()
        return fresh
