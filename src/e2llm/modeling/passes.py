"""Passes of the encoder whose results do not depend on what else is read with them, without gradients.

An edited context must equal, bit for bit, the edited text read afresh, a stored chunk a fresh one, and a run
that was killed and resumed one that was not. So a pass is made such that a chunk's numbers are the same
whichever chunks share it:

- On a CPU each thread runs passes of its own, one matrix kernel thread each. A pass holds chunks of exactly
  the same number of tokens: no padding, no mask. A matrix product gives each row the same bits from 16 rows
  up, however many there are; where a trial shows that this machine's does not, a pass holds one chunk.
- On a GPU all passes of a length class have one shape, padded and filled up.

This is also the fastest way found (docs/inference.md). What comes before a pass (tokenizing) runs beside the
passes before it.

Shapes: c chunks of a pass, T encoder tokens per chunk.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from e2llm.modeling.adapters import LEAST_ROWS
from e2llm.modeling.composite import CompositeModel
from e2llm.modeling.threads import one_kernel_thread_each

_CPU_PASS_TOKENS = 1024
_GPU_PASS_TOKENS = 4096
_GPU_LENGTH_STEP = 16
_TRIAL_LENGTHS = (16, 47)

Results = tuple[torch.Tensor, ...]
Compute = Callable[[torch.Tensor, torch.Tensor | None], Results]
Row = tuple[int, Sequence[int]]


@dataclass(frozen=True)
class Pass:
    """Chunks that the encoder reads together.

    Attributes:
        places: `c` numbers by which the caller knows the chunks.
        ids: `[c + fill, T]` token ids; the fill repeats the first chunk.
        mask: Of the same shape, nonzero for real tokens; None where there is no padding.
    """

    places: list[int]
    ids: torch.Tensor
    mask: torch.Tensor | None

    @property
    def num_tokens(self) -> int:
        """Tokens read, without padding."""
        return self.ids.numel() if self.mask is None else int(self.mask.sum())


class PassRunner:
    """Runs passes over rows of token ids; threads may share one.

    Args:
        model: Its encoder must be in evaluation mode.
        pad_token_id: Of the encoder's tokenizer.
        compute: Makes tensors of `c + fill` rows of a pass's ids and mask, on the encoder's device.
        no_gradients: `torch.inference_mode`, or `torch.no_grad` where gradients flow through what is made of
            the results.
    """

    def __init__(
        self,
        model: CompositeModel,
        pad_token_id: int,
        compute: Compute,
        no_gradients: Callable[[], AbstractContextManager[object]] = torch.inference_mode,
    ) -> None:
        self.model = model
        self.pad_token_id = pad_token_id
        self.compute = compute
        self.no_gradients = no_gradients
        self._starting = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_owner = (0, 0)
        self._may_group: bool | None = None

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        device: torch.device = next(self.model.chunk_encoder.parameters()).device
        return device

    @property
    def _has_fixed_shapes(self) -> bool:
        """Whether passes are padded to shapes of their length class, as on a GPU."""
        return self.device.type != "cpu"

    def run(
        self, blocks: Iterable[Sequence[Row]], keep: Callable[[Pass, Results], object], count: int
    ) -> Iterator[Pass]:
        """Run the passes of all rows; yields each after `keep` has taken its results.

        Args:
            blocks: Rows `(place, token ids)` to group among each other, block by block.
            keep: Called once per pass with its results, on a CPU in the thread that ran it.
            count: How many rows there are in all.
        """
        if self._has_fixed_shapes:
            yield from self._run_ahead(blocks, keep)
            return
        with one_kernel_thread_each() as num_threads:
            pool = self._threads(num_threads)
            if self._may_group is None and count > 1:
                self._may_group = pool.submit(self._rows_do_not_matter).result()
            yield from self._run_beside(pool, 8 * num_threads, blocks, keep)

    def _run_beside(
        self,
        pool: ThreadPoolExecutor,
        max_waiting: int,
        blocks: Iterable[Sequence[Row]],
        keep: Callable[[Pass, Results], object],
    ) -> Iterator[Pass]:
        """On a CPU: threads run the passes while this one makes the next."""
        waiting: deque[Future[Pass]] = deque()
        try:
            for item in self._plan(blocks):
                waiting.append(pool.submit(self._run_one, item, keep))
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

    def _run_ahead(
        self, blocks: Iterable[Sequence[Row]], keep: Callable[[Pass, Results], object]
    ) -> Iterator[Pass]:
        """On a GPU: the next pass is begun before the results of the last are fetched."""
        last: tuple[Pass, Results] | None = None
        for item in self._plan(blocks):
            begun = (item, self._compute(item))
            if last is not None:
                keep(*last)
                yield last[0]
            last = begun
        if last is not None:
            keep(*last)
            yield last[0]

    def _run_one(self, item: Pass, keep: Callable[[Pass, Results], object]) -> Pass:
        keep(item, self._compute(item))
        return item

    def _compute(self, item: Pass) -> Results:
        with self.no_gradients():
            mask = None if item.mask is None else item.mask.to(self.device)
            return self.compute(item.ids.to(self.device), mask)

    def _plan(self, blocks: Iterable[Sequence[Row]]) -> Iterator[Pass]:
        """Put chunks of a length together, longest first in each block."""
        on_cpu = not self._has_fixed_shapes
        step = 1 if on_cpu else _GPU_LENGTH_STEP
        budget = _CPU_PASS_TOKENS if on_cpu else max(_GPU_PASS_TOKENS, self.model.config.encoder_batch_tokens)
        for block in blocks:
            classes: dict[tuple[int, bool], list[Row]] = {}
            for place, row in block:
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

    def _pad(self, members: Sequence[Row], length: int, is_padded: bool, fill: int) -> Pass:
        """A pass of shape `[c + fill, length]`."""
        rows = [list(row) for _, row in members]
        rows += rows[:1] * fill
        ids = torch.tensor([row + [self.pad_token_id] * (length - len(row)) for row in rows])
        mask = None
        if is_padded:
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return Pass([place for place, _ in members], ids, mask)

    def _rows_do_not_matter(self) -> bool:
        """Try whether chunks read together come out bit for bit as each by itself, on this machine."""
        vocabulary = self.model.config.encoder_config.vocab_size
        generator = torch.Generator().manual_seed(0)
        with self.no_gradients():
            for length in _TRIAL_LENGTHS:
                ids = torch.randint(vocabulary, (3, length), generator=generator)
                together = self.compute(ids, None)
                for row in range(len(ids)):
                    alone = self.compute(ids[row : row + 1], None)
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
