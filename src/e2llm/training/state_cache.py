"""Token states of a frozen encoder, kept so that a chunk seen again is not encoded again.

Chunks are known by their token ids. States are kept in half precision, in memory, in a store on disk, or in
both; without either they are computed each time, in full precision. A chunk's states equal, up to rounding,
those of the chunk encoded alone.

Shapes: C chunks, T encoder tokens per chunk, E encoder width.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.utils.rnn import pad_sequence

from e2llm.errors import E2LLMError
from e2llm.modeling.identity import encoder_fingerprint
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.store.chunk_store import ChunkStore

_PUT_BYTES = 2**26  # written to the store at once
_MOST_BYTES = 2**25  # of one chunk in the store; longer ones are encoded each time


class EncoderStates:
    """Token states of chunks by their token ids, from memory, from a store, or fresh.

    Args:
        model: Its encoder must be frozen.
        pad_token_id: Of the encoder's tokenizer.
        max_bytes: Limit of what is kept in memory, the least recently used going first.
        store: Keeps states beyond this run and shares them between processes.
        autocast: Gives the context in which the encoder computes.

    Attributes:
        num_found: Chunks met so far whose states were kept.
        num_encoded: Chunks encoded so far.

    Raises:
        ValueError: If the encoder trains.
    """

    def __init__(
        self,
        model: E2LLMForConditionalGeneration,
        pad_token_id: int,
        *,
        max_bytes: int = 0,
        store: ChunkStore | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        if any(parameter.requires_grad for parameter in model.chunk_encoder.parameters()):
            raise ValueError("encoder states can be kept only for a frozen encoder: set encoder.mode: frozen")
        self.model = model
        self.pad_token_id = pad_token_id
        self.max_bytes = max_bytes
        self.store = store
        self.autocast = autocast
        self.num_bytes = 0
        self.num_found = 0
        self.num_encoded = 0
        self._keeps = bool(max_bytes) or store is not None
        self._rows: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._fingerprint = b""
        if store is not None:
            with autocast():
                kind = model.chunk_encoder.device.type
                halved = torch.is_autocast_enabled(kind)
                precision = str(torch.get_autocast_dtype(kind)) if halved else "as it is"
            self._fingerprint = f"{encoder_fingerprint(model)} {precision}".encode()

    def __call__(
        self, chunk_input_ids: torch.Tensor, chunk_attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token states of chunks, in their order.

        Args:
            chunk_input_ids: `[C, T]`, right-padded.
            chunk_attention_mask: `[C, T]`.

        Returns:
            States `[C, T, E]`, in half precision if they are kept, and the mask, on the adapter's device.
        """
        lengths = chunk_attention_mask.sum(dim=1).tolist()
        ids = [row[:length] for row, length in zip(chunk_input_ids.tolist(), lengths, strict=True)]
        keys = [self._key(row) for row in ids]
        rows = self._known(list(dict.fromkeys(keys)))
        missing = {key: row for key, row in zip(keys, ids, strict=True) if key not in rows}
        self.num_found += len(keys) - len(missing)
        self.num_encoded += len(missing)
        fresh = self._encode(list(missing.values()))
        rows.update(zip(missing, fresh, strict=True))
        self._keep(rows, list(missing))
        device = next(self.model.adapter.parameters()).device
        states = pad_sequence([rows[key] for key in keys], batch_first=True)
        return states.to(device), chunk_attention_mask[:, : states.shape[1]].to(device)

    def _key(self, ids: Sequence[int]) -> bytes:
        return hashlib.sha256(b"token states" + self._fingerprint + array("q", ids).tobytes()).digest()

    def _known(self, keys: list[bytes]) -> dict[bytes, torch.Tensor]:
        """What memory and the store hold."""
        known = {key: self._rows[key] for key in keys if key in self._rows}
        if self.store is not None and len(known) < len(keys):
            entries = self.store.get_many([key for key in keys if key not in known])
            config = self.model.config
            width = config.encoder_config.hidden_size * len(config.encoder_layers or [-1])
            for key, entry in entries.items():
                states = entry.get("states")
                if states is not None and states.dim() == 2 and states.shape[1] == width:
                    known[key] = states
        return known

    def _encode(self, rows: list[list[int]]) -> list[torch.Tensor]:
        """States of rows of token ids, `[T, E]` each, on the CPU."""
        if not rows:
            return []
        ids = pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=self.pad_token_id
        )
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        device = self.model.chunk_encoder.device
        result: dict[int, torch.Tensor] = {}
        for item in self.model.passes(ids, mask):
            with torch.no_grad(), self.autocast():
                states = self.model.encode_states(item.ids.to(device), item.mask.to(device))
            states = states.half() if self._keeps else states.float()
            if self._keeps and not bool(torch.isfinite(states).all()):
                raise E2LLMError(
                    "the encoder's states go beyond half precision, in which they are kept; set "
                    "train.cache_encoder_states_mb: 0 and no train.encoder_state_store"
                )
            for place, row in zip(item.rows.tolist(), states.cpu(), strict=True):
                result[place] = row[: len(rows[place])].clone()
        return [result[place] for place in range(len(rows))]

    def _keep(self, rows: dict[bytes, torch.Tensor], fresh: list[bytes]) -> None:
        """Remember the rows just used, and write the fresh ones to the store."""
        if self.store is not None:
            batch: dict[bytes, dict[str, torch.Tensor]] = {}
            num_bytes = 0
            for key in (key for key in fresh if rows[key].nbytes <= _MOST_BYTES):
                batch[key] = {"states": rows[key]}
                num_bytes += rows[key].nbytes
                if num_bytes > _PUT_BYTES:
                    self.store.put_many(batch)
                    batch, num_bytes = {}, 0
            self.store.put_many(batch)
        if not self.max_bytes:
            return
        for key, states in rows.items():
            if key not in self._rows:
                self.num_bytes += states.nbytes
            self._rows[key] = states
            self._rows.move_to_end(key)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._rows.popitem(last=False)[1].nbytes
