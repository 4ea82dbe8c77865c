"""Reading: every chunk in a pass whose result does not depend on what else is read.

An edited context must equal, bit for bit, the edited text read afresh, and a stored chunk must equal a fresh
one. So a pass is made such that a chunk's numbers are the same whichever chunks share it:

- On a CPU each thread reads passes of its own, one matrix kernel thread each. A pass holds chunks of exactly
  the same number of tokens: no padding, no mask. A matrix product gives each row the same bits from 16 rows
  up, however many there are; where a trial shows that this machine's does not, a pass holds one chunk.
- On a GPU all passes of a length class have one shape, padded and filled up.

This is also the fastest way found (docs/inference.md). Tokenizing runs beside the passes, and memory beyond
the result is that of a few passes, however long the context.

Shapes: C chunks, T encoder tokens per chunk, E encoder width, K soft tokens per chunk, D decoder width.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from e2llm.errors import E2LLMError
from e2llm.inference.threads import one_kernel_thread_each
from e2llm.modeling.adapters import LEAST_ROWS, pool_states
from e2llm.modeling.identity import reading_fingerprint, weight_versions
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor

_BLOCK_CHUNKS = 1024  # tokenized at once
_CPU_PASS_TOKENS = 1024
_GPU_PASS_TOKENS = 4096
_GPU_LENGTH_STEP = 16
_TRIAL_LENGTHS = (16, 47)


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


@dataclass(frozen=True)
class _Pass:
    """Chunks that the encoder reads together: their places in the result, ids `[c, T]` and the mask."""

    places: list[int]
    ids: torch.Tensor
    mask: torch.Tensor | None


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
        self._starting = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_owner = (0, 0)
        self._may_group: bool | None = None
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
        device: torch.device = next(self.model.chunk_encoder.parameters()).device
        return device

    @property
    def _has_fixed_shapes(self) -> bool:
        """Whether passes are padded to shapes of their length class, as on a GPU."""
        return self.device.type != "cpu"

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
        show = progress if progress is not None else sys.stderr.isatty() and len(texts) > 64
        with (
            tqdm(total=len(texts), unit="chunk", desc="reading", disable=not show, leave=False) as bar,
            torch.inference_mode(),
        ):
            tokens = 0
            for done in self._run_passes(texts, result):
                tokens += done.ids.numel() if done.mask is None else int(done.mask.sum())
                bar.update(len(done.places))
                bar.set_postfix_str(
                    f"{tokens / max(bar.format_dict['elapsed'], 1e-3):,.0f} tokens/s", refresh=False
                )
                if on_read is not None:
                    on_read(done.places, result)
            bar.refresh()
        return result

    def _run_passes(self, texts: Sequence[str], result: ReadChunks) -> Iterator[_Pass]:
        """Run all passes; yields each after it is in the result."""
        if self._has_fixed_shapes:
            yield from self._run_ahead(texts, result)
            return
        with one_kernel_thread_each() as num_threads:
            yield from self._run_beside(self._threads(num_threads), 8 * num_threads, texts, result)

    def _run_beside(
        self, pool: ThreadPoolExecutor, max_waiting: int, texts: Sequence[str], result: ReadChunks
    ) -> Iterator[_Pass]:
        """On a CPU: threads run the passes while this one tokenizes."""
        if self._may_group is None and len(texts) > 1:
            self._may_group = pool.submit(self._rows_do_not_matter).result()
        waiting: deque[Future[_Pass]] = deque()
        try:
            for item in self._plan_passes(texts):
                waiting.append(pool.submit(self._fill, item, result))
                while waiting and (waiting[0].done() or len(waiting) > max_waiting):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error or an interrupt, no thread goes on
            for future in waiting:
                future.cancel()
            for future in waiting:
                if not future.cancelled():
                    future.exception()

    def _run_ahead(self, texts: Sequence[str], result: ReadChunks) -> Iterator[_Pass]:
        """On a GPU: the next pass is begun before the results of the last are fetched."""
        last: tuple[_Pass, torch.Tensor, torch.Tensor] | None = None
        for item in self._plan_passes(texts):
            begun = (item, *self._compute(item))
            if last is not None:
                yield _store(*last, result)
            last = begun
        if last is not None:
            yield _store(*last, result)

    def _fill(self, item: _Pass, result: ReadChunks) -> _Pass:
        with torch.inference_mode():
            return _store(item, *self._compute(item), result)

    def _compute(self, item: _Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft tokens and vectors of a pass, of its fill included."""
        ids = item.ids.to(self.device)
        mask = None if item.mask is None else item.mask.to(self.device)
        states = self.model.encode_states(ids, mask)
        if mask is None:
            mask = torch.ones_like(ids)
        soft_tokens = self.model.adapt(states, mask, self.model.config.max_soft_tokens)
        return soft_tokens, pool_states(states, mask, self.model.config.pooling)

    def _plan_passes(self, texts: Sequence[str]) -> Iterator[_Pass]:
        """Tokenize block by block, longest texts first, and put chunks of a length together."""
        on_cpu = not self._has_fixed_shapes
        step = 1 if on_cpu else _GPU_LENGTH_STEP
        budget = _CPU_PASS_TOKENS if on_cpu else max(_GPU_PASS_TOKENS, self.model.config.encoder_batch_tokens)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]), reverse=True)
        for start in range(0, len(order), _BLOCK_CHUNKS):
            places = order[start : start + _BLOCK_CHUNKS]
            with self._lock:
                rows = self.processor.encode_chunk_ids([texts[place] for place in places])
            classes: dict[tuple[int, bool], list[tuple[int, list[int]]]] = {}
            for place, row in zip(places, rows, strict=True):
                length = max(LEAST_ROWS, -(-len(row) // step) * step)
                is_padded = len(row) < length if on_cpu else True
                classes.setdefault((length, is_padded), []).append((place, row))
            for (length, is_padded), members in sorted(classes.items(), reverse=True):
                size = max(1, budget // length)
                if on_cpu and not self._may_group:
                    size = 1
                for at in range(0, len(members), size):
                    part = members[at : at + size]
                    fill = 0 if on_cpu else size - len(part)
                    yield self._pad(part, length, is_padded, fill)

    def _pad(self, members: list[tuple[int, list[int]]], length: int, is_padded: bool, fill: int) -> _Pass:
        """A pass of shape `[c + fill, length]`; the fill repeats the first chunk."""
        rows = [row for _, row in members]
        rows += rows[:1] * fill
        padding = self.processor.encoder_tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [padding] * (length - len(row)) for row in rows])
        mask = None
        if is_padded:
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return _Pass([place for place, _ in members], ids, mask)

    def _rows_do_not_matter(self) -> bool:
        """Try whether chunks read together come out bit for bit as each by itself, on this machine."""
        vocabulary = self.model.config.encoder_config.vocab_size
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            for length in _TRIAL_LENGTHS:
                ids = torch.randint(vocabulary, (3, length), generator=generator)
                together = self._compute(_Pass([], ids, None))
                for row in range(len(ids)):
                    alone = self._compute(_Pass([], ids[row : row + 1], None))
                    if not all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True)):
                        return False
        return True

    def _threads(self, count: int) -> ThreadPoolExecutor:
        """Threads for passes, kept for the next reading."""
        with self._starting:
            if self._pool is None or self._pool_owner != (os.getpid(), count):  # none survives a fork
                self._pool_owner = (os.getpid(), count)
                self._pool = ThreadPoolExecutor(count, "e2llm-reader", torch.set_num_threads, (1,))
            return self._pool


def _store(item: _Pass, soft_tokens: torch.Tensor, vectors: torch.Tensor, result: ReadChunks) -> _Pass:
    """Put a pass's results in their places."""
    count = len(item.places)
    result.soft_tokens[item.places] = soft_tokens[:count].to("cpu", result.soft_tokens.dtype)
    result.vectors[item.places] = vectors[:count].to("cpu", torch.float32)
    if not bool(torch.isfinite(result.vectors[item.places]).all()):
        raise E2LLMError("the encoder gave values that are not finite; load it in float32 or bfloat16")
    return item
