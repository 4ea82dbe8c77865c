"""Encode chunk texts pass by pass, and return the states to keep.

Kept states equal, up to rounding (1e-5 in float32), those of reading the chunk alone. Memory beyond
the result is that of one pass, however long the context.

Shapes: C chunks, T encoder tokens per chunk, E encoder width, N kept states per chunk, S their width,
P places at which chunks are in the input, R soft tokens in all, D decoder width.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from e2llm.errors import E2LLMError
from e2llm.modeling.adapters import pool_states
from e2llm.modeling.encoding import EncoderPass
from e2llm.modeling.identity import reading_fingerprint, weight_versions
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import count_soft_tokens

_BLOCK_CHUNKS = 1024  # tokenized at once


@dataclass(frozen=True, eq=False)
class ReadChunks:
    """Kept states of C chunks, on CPU.

    Attributes:
        rows: A tensor `[n, S]` per chunk: the pooled states at the finest rate in float16, or, if the
            model has no rate, the soft tokens in the dtype of the decoder's embeddings.
        num_tokens: `[C]` int64, encoder tokens of each chunk; 1 if the adapter does not need it.
        vectors: `[C, E]` float32, the encoder's embedding of each chunk.
    """

    rows: list[torch.Tensor]
    num_tokens: torch.Tensor
    vectors: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def nothing(cls, count: int = 0) -> "ReadChunks":
        """Return the placeholder for chunks without states."""
        empty = [torch.empty(0, 0)] * count
        return cls(empty, torch.ones(count, dtype=torch.long), torch.empty(count, 0))

    @classmethod
    def join(cls, parts: Sequence["ReadChunks"]) -> "ReadChunks":
        """Join the chunks of at least one part, in order."""
        return cls(
            [rows for part in parts for rows in part.rows],
            torch.cat([part.num_tokens for part in parts]),
            torch.cat([part.vectors for part in parts]),
        )

    @property
    def kept(self) -> torch.Tensor:
        """The states of all chunks as one tensor `[C, N, S]`, padded with zeros."""
        return pad_sequence(self.rows, batch_first=True) if self.rows else self.vectors.new_empty(0, 0, 0)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(rows.nbytes for rows in self.rows) + self.num_tokens.nbytes + self.vectors.nbytes

    def select(self, indices: Sequence[int]) -> "ReadChunks":
        """Return the states of some of the chunks, which may repeat."""
        chosen = list(indices)
        return ReadChunks(
            [self.rows[index] for index in chosen], self.num_tokens[chosen], self.vectors[chosen]
        )

    def put(self, places: Sequence[int], other: "ReadChunks", origins: Sequence[int]) -> None:
        """Copy chunks from another object: the chunk at `places[i]` becomes the other's `origins[i]`."""
        for place, origin in zip(places, origins, strict=True):
            self.rows[place] = other.rows[origin]
        self.num_tokens[list(places)] = other.num_tokens[list(origins)]
        self.vectors[list(places)] = other.vectors[list(origins)]


class ChunkReader:
    """Encode chunk texts with a model's encoder and adapter; threads may share a reader.

    Args:
        model: In evaluation mode.
        processor: Its tokenizer reads the texts.

    Attributes:
        lock: Held while a tokenizer works, because each call changes its settings (padding, special
            tokens).
    """

    def __init__(self, model: E2LLMForConditionalGeneration, processor: E2LLMProcessor) -> None:
        self.model = model
        self.processor = processor
        self.lock = threading.RLock()
        self._fingerprint: tuple[Any, str] | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the kept states depend on, computed again when a weight changes."""
        versions = weight_versions(self.model)
        if self._fingerprint is None or self._fingerprint[0] != versions:
            self._fingerprint = (versions, reading_fingerprint(self.model, self.processor))
        return self._fingerprint[1]

    @property
    def finest_rate(self) -> int | None:
        """Encoder tokens per kept state; None if the model has no rate."""
        return int(self.model.config.finest_rate) if self.model.adapter.dial == "rate" else None

    @property
    def device(self) -> torch.device:
        """The encoder's device."""
        device: torch.device = next(self.model.chunk_encoder.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the kept states: float16 for pooled states, that of the embeddings for soft tokens."""
        if self.model.adapter.dial == "rate":
            return torch.float16
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def width(self) -> int:
        """S, the width of the kept states."""
        adapter = self.model.adapter
        if adapter.dial == "rate":
            return int(adapter.kept_size)  # type: ignore[arg-type]
        return int(self.model.get_input_embeddings().weight.shape[1])

    def num_rows(self, num_tokens: int) -> int:
        """Return the number of kept states of a chunk of `num_tokens` encoder tokens."""
        if self.model.adapter.dial == "rate":
            return count_soft_tokens(num_tokens, self.model.config.finest_rate)
        return int(self.model.config.max_soft_tokens)

    def empty(self, count: int) -> ReadChunks:
        """Return empty states for `count` chunks, to be filled in."""
        nothing = torch.empty(0, self.width, dtype=self.dtype)
        vectors = torch.empty(count, self.model.config.encoder_config.hidden_size)
        return ReadChunks([nothing] * count, torch.ones(count, dtype=torch.long), vectors)

    def read(
        self,
        texts: Sequence[str],
        *,
        progress: bool | None = None,
        on_read: Callable[[list[int], ReadChunks], Any] | None = None,
    ) -> ReadChunks:
        """Encode chunk texts, and return their kept states and embeddings.

        Args:
            texts: C texts that each fit the encoder.
            progress: Show a bar with tokens per second; by default on a terminal when there is much to read.
            on_read: Called in this thread after each pass, with the places of its chunks and the result so
                far.
        """
        result = self.empty(len(texts))
        show = progress if progress is not None else sys.stderr.isatty() and len(texts) > 64
        with tqdm(total=len(texts), unit="chunk", desc="reading", disable=not show, leave=False) as bar:
            num_tokens = 0
            for places, item in self._passes(texts):
                num_tokens += self._read_pass(places, item, result)
                bar.update(len(places))
                speed = num_tokens / max(bar.format_dict["elapsed"], 1e-3)
                bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
                if on_read is not None:
                    on_read(places, result)
            bar.refresh()
        return result

    def _passes(self, texts: Sequence[str]) -> Iterator[tuple[list[int], EncoderPass]]:
        """Tokenize block by block, longest texts first; yield each pass with the places of its chunks."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]), reverse=True)
        for start in range(0, len(order), _BLOCK_CHUNKS):
            block = order[start : start + _BLOCK_CHUNKS]
            with self.lock:
                encoded = self.processor.encode_chunk_texts([texts[place] for place in block])
            for item in self.model.passes(encoded["chunk_input_ids"], encoded["chunk_attention_mask"]):
                yield [block[row] for row in item.rows.tolist()], item

    @torch.inference_mode()
    def _read_pass(self, places: list[int], item: EncoderPass, result: ReadChunks) -> int:
        """Encode a pass, store each chunk's rows in its place, and return the number of tokens read."""
        mask = item.mask.to(self.device)
        states, last = self.model.encode_layers(item.ids.to(self.device), mask)
        kept = self.model.keep(states, mask).to("cpu", self.dtype)
        vectors = pool_states(last, mask, self._vector_pooling).to("cpu", torch.float32)
        if not bool(torch.isfinite(vectors).all()):
            raise E2LLMError("the encoder's states contain NaN or infinity; load it in float32 or bfloat16")
        has_rate = self.model.adapter.dial == "rate"
        if has_rate and not bool(torch.isfinite(kept).all()):
            raise E2LLMError(
                "pooled states exceed the range of float16, in which they are kept: the adapter's "
                "projection is too large or damaged; load the model in float32, or train it with a lower "
                "learning rate"
            )
        lengths = item.mask.sum(dim=1).tolist()
        for place, own, length in zip(places, kept, lengths, strict=True):
            result.rows[place] = own[: self.num_rows(length)].clone()
            result.num_tokens[place] = length if has_rate else 1
        result.vectors[places] = vectors
        return sum(lengths)

    @property
    def _vector_pooling(self) -> str:
        """How to pool a chunk's embedding: by the mean, or as the `mlp` adapter pools."""
        config = self.model.config
        return "mean" if self.model.adapter.dial == "rate" else str(config.pooling)


@torch.no_grad()
def soft_tokens_of(
    model: E2LLMForConditionalGeneration, read: ReadChunks, indices: Sequence[int], counts: Sequence[int]
) -> torch.Tensor:
    """Make soft tokens from kept states, which happens when a question is asked.

    Args:
        model: The model that read the chunks.
        read: The states of all chunks.
        indices: P chunks of `read`, at least one.
        counts: Soft tokens of each of the P chunks, 1 or more.

    Returns:
        The soft tokens `[R, D]` of these chunks in order, on the adapter's device.

    Raises:
        E2LLMError: If a chunk cannot have that many.
    """
    chosen = read.select(indices)
    device = next(model.adapter.parameters()).device
    return model.soften(chosen.kept.to(device), chosen.num_tokens, torch.tensor(list(counts)))
