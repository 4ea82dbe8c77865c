"""Reading: from chunk texts to soft tokens, in passes whose results do not depend on what else is read.

The passes are those of `e2llm.modeling.passes`. Tokenizing runs beside them, and memory beyond the result is
that of a few passes, however long the context.

Shapes: C chunks, T encoder tokens per chunk, E encoder width, K soft tokens per chunk, D decoder width.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from e2llm.errors import E2LLMError
from e2llm.modeling.adapters import pool_states
from e2llm.modeling.identity import reading_fingerprint, weight_versions
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.passes import Pass, PassRunner, Results, Row
from e2llm.modeling.processor import E2LLMProcessor

_BLOCK_CHUNKS = 1024  # tokenized at once


@dataclass(frozen=True)
class ReadChunks:
    """What reading makes of C chunks, on the CPU.

    Attributes:
        soft_tokens: `[C, K, D]` in the dtype of the decoder's embeddings, K the most that the model makes.
        vectors: `[C, E]` float32, the encoder's embedding of each chunk.
    """

    soft_tokens: torch.Tensor
    vectors: torch.Tensor

    def __len__(self) -> int:
        return len(self.soft_tokens)


class ChunkReader:
    """Reads chunk texts with a model's encoder and adapter; threads may share one.

    Args:
        model: In evaluation mode.
        processor: Its tokenizer reads the texts.
        lock: Held while the tokenizer works, which is switched between settings at each call.
    """

    def __init__(
        self,
        model: E2LLMForConditionalGeneration,
        processor: E2LLMProcessor,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self._lock = lock or nullcontext()
        self._runner = PassRunner(model, processor.encoder_tokenizer.pad_token_id or 0, self._compute)
        self._fingerprint: tuple[Any, str] | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of all that soft tokens depend on, renewed when a weight changes."""
        versions = weight_versions(self.model)
        if self._fingerprint is None or self._fingerprint[0] != versions:
            self._fingerprint = (versions, reading_fingerprint(self.model, self.processor))
        return self._fingerprint[1]

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self._runner.device

    def empty(self, count: int) -> ReadChunks:
        """Room for `count` chunks."""
        weight = self.model.get_input_embeddings().weight
        shape = (count, self.model.config.max_soft_tokens, weight.shape[1])
        vectors = torch.empty(count, self.model.config.encoder_config.hidden_size)
        return ReadChunks(torch.empty(shape, dtype=weight.dtype), vectors)

    def read(
        self,
        texts: Sequence[str],
        *,
        progress: bool | None = None,
        on_read: Callable[[list[int], ReadChunks], Any] | None = None,
    ) -> ReadChunks:
        """Make the soft tokens and the vectors of chunk texts.

        Args:
            texts: C texts that each fit the encoder.
            progress: Show a bar with tokens per second; by default on a terminal when there is much to read.
            on_read: Called, in this thread, with the places of the chunks read by each pass and the result so
                far, in which these are filled in.
        """
        result = self.empty(len(texts))

        def keep(item: Pass, results: Results) -> None:
            with torch.inference_mode():
                soft_tokens, vectors = results
                _store(item, soft_tokens, vectors, result)

        show = progress if progress is not None else sys.stderr.isatty() and len(texts) > 64
        with tqdm(total=len(texts), unit="chunk", desc="reading", disable=not show, leave=False) as bar:
            tokens = 0
            for done in self._runner.run(self._blocks(texts), keep, len(texts)):
                tokens += done.num_tokens
                bar.update(len(done.places))
                bar.set_postfix_str(
                    f"{tokens / max(bar.format_dict['elapsed'], 1e-3):,.0f} tokens/s", refresh=False
                )
                if on_read is not None:
                    on_read(done.places, result)
            bar.refresh()
        return result

    def _blocks(self, texts: Sequence[str]) -> Iterator[list[Row]]:
        """Tokenize block by block, longest texts first."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]), reverse=True)
        for start in range(0, len(order), _BLOCK_CHUNKS):
            places = order[start : start + _BLOCK_CHUNKS]
            with self._lock:
                rows = self.processor.encode_chunk_ids([texts[place] for place in places])
            yield list(zip(places, rows, strict=True))

    def _compute(self, ids: torch.Tensor, mask: torch.Tensor | None) -> Results:
        """Soft tokens and vectors of a pass, of its fill included."""
        states = self.model.encode_states(ids, mask)
        if mask is None:
            mask = torch.ones_like(ids)
        soft_tokens = self.model.adapt(states, mask, self.model.config.max_soft_tokens)
        return soft_tokens, pool_states(states, mask, self.model.config.pooling)


def _store(item: Pass, soft_tokens: torch.Tensor, vectors: torch.Tensor, result: ReadChunks) -> None:
    """Put a pass's results in their places."""
    count = len(item.places)
    result.soft_tokens[item.places] = soft_tokens[:count].to("cpu", result.soft_tokens.dtype)
    result.vectors[item.places] = vectors[:count].to("cpu", torch.float32)
    if not bool(torch.isfinite(result.vectors[item.places]).all()):
        raise E2LLMError("the encoder gave values that are not finite; load it in float32 or bfloat16")
