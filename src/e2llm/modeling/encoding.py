"""Encode chunks into kept states, and turn kept states into soft tokens.

Training and reading both read chunks in the passes that `ChunkEncoding.passes` plans, each by one call of
`encode_layers`.

Shapes: C chunks of the whole batch, c chunks of one pass, P places at which chunks are, T encoder tokens per
chunk, E encoder width times the number of layers read, N kept states per chunk, S their width, K soft tokens
per chunk, R soft tokens in all, D decoder embedding width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from e2llm.errors import E2LLMError
from e2llm.modeling.adapters import Adapter
from e2llm.modeling.checkpoints.parts import encoder_token_limit


@dataclass(frozen=True)
class EncoderPass:
    """Chunks that the encoder reads in one pass.

    Attributes:
        rows: `[c]` int64, their rows in the batch.
        ids: `[c, T]` int64 encoder token ids, right-padded to the longest chunk of the pass.
        mask: `[c, T]`, nonzero for real tokens.
    """

    rows: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor


def plan_passes(mask: torch.Tensor, max_tokens: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Group chunks of similar length into passes of the encoder.

    Args:
        mask: `[C, T]`, nonzero for real tokens.
        max_tokens: Most tokens in a pass, padding included; a longer chunk is a pass by itself.

    Yields:
        Row numbers `[c]`, longest chunks first over all passes, and the number of tokens to read of these
        rows.

    Raises:
        E2LLMError: If a chunk has no token.
    """
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask.ne(0) * places).amax(dim=1) if mask.shape[1] else mask.new_zeros(len(mask))
    order = torch.argsort(lengths, descending=True, stable=True)
    in_order = lengths[order].tolist()
    if in_order and not in_order[-1]:
        raise E2LLMError(f"chunk {int(order[-1])} has no tokens: its attention mask is all zero")
    start = 0
    while start < len(in_order):
        size = max(1, max_tokens // in_order[start])
        yield order[start : start + size], in_order[start]
        start += size


class ChunkEncoding(PreTrainedModel):  # type: ignore[misc]
    """Methods of a model that use its `chunk_encoder` and `adapter`; `CompositeModel` creates both."""

    chunk_encoder: Any
    adapter: Adapter
    unchecked_encoder_tokens: int
    agree_on_passes: Callable[[int], int] | None
    _encoder_options: dict[str, bool]

    def passes(self, ids: torch.Tensor, mask: torch.Tensor) -> Iterator[EncoderPass]:
        """Plan the encoder's passes over chunks, longest first, which keeps padding small.

        Args:
            ids: `[C, T]` encoder token ids, right-padded.
            mask: `[C, T]`, nonzero for real tokens.

        Raises:
            E2LLMError: If a chunk is empty, or longer than the encoder reads.
        """
        limit = encoder_token_limit(config=self.config.encoder_config)
        for rows, length in plan_passes(mask, self.config.encoder_batch_tokens):
            if length > limit:
                raise E2LLMError(
                    f"a chunk has {length} encoder tokens, but the encoder reads at most {limit}; split it"
                )
            yield EncoderPass(rows, ids[rows, :length], mask[rows, :length])

    def encode_layers(
        self, chunk_input_ids: torch.Tensor, chunk_attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the encoder on one pass.

        Args:
            chunk_input_ids: `[C, T]` ids.
            chunk_attention_mask: `[C, T]`, nonzero for real tokens.

        Returns:
            `[C, T, E]`, what the adapter reads: the states of `config.encoder_layers` side by side; and the
            last layer's states.
        """
        layers = self.config.encoder_layers
        outputs = self.chunk_encoder(
            input_ids=chunk_input_ids,
            attention_mask=chunk_attention_mask,
            output_hidden_states=layers is not None,
            **self._encoder_options,
        )
        last: torch.Tensor = outputs.last_hidden_state
        if layers is None:
            return last, last
        final = len(outputs.hidden_states) - 1
        chosen = [last if layer == final else outputs.hidden_states[layer] for layer in layers]
        return (chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)), last

    def encode_states(
        self, chunk_input_ids: torch.Tensor, chunk_attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Run the encoder once on `[C, T]` ids and mask; return `[C, T, E]` states."""
        return self.encode_layers(chunk_input_ids, chunk_attention_mask)[0]

    def keep(
        self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int | None = None
    ) -> torch.Tensor:
        """Return the states to keep, `[C, N, S]`, for token states `[C, T, E]` with their mask `[C, T]`.

        Args:
            states: Of `encode_states`.
            mask: Nonzero for real tokens.
            num_soft_tokens: Most soft tokens that a chunk will have, where the dial is their number.
        """
        dtype = next(self.adapter.parameters()).dtype
        kept: torch.Tensor = self.adapter(
            states.to(dtype), mask, num_soft_tokens or self.config.max_soft_tokens
        )
        return kept

    def soften(
        self, kept: torch.Tensor, num_tokens: torch.Tensor, num_soft_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return soft tokens made from kept states, the second step of the adapter.

        Args:
            kept: `[P, N, S]`, a row for each place.
            num_tokens: `[P]` encoder tokens of each chunk.
            num_soft_tokens: `[P]` soft tokens that each place takes.

        Returns:
            `[R, D]` soft tokens, one place after the other.
        """
        dtype, device = next(self.adapter.parameters()).dtype, kept.device
        soft_tokens: torch.Tensor = self.adapter.soft_tokens(
            kept.to(dtype), num_tokens.to(device).long(), num_soft_tokens.to(device).long()
        )
        return soft_tokens

    def encode_chunks(
        self,
        chunk_input_ids: torch.Tensor,
        chunk_attention_mask: torch.Tensor,
        num_soft_tokens: int | None = None,
    ) -> torch.Tensor:
        """Read chunks, with gradients where they are enabled.

        The chunks are read in `passes` and come back in their order. With gradients each pass runs under
        activation checkpointing, but for the first passes of at most `unchecked_encoder_tokens` tokens, whose
        activations are kept to save the second computation: if the encoder trains, memory stays that of one
        pass and of what is kept; if it is frozen, the token states alone are kept. The gradients equal the
        plain ones.

        A sharded model's weights are gathered by all processes at once, so that all must make the same number
        of passes: `agree_on_passes` says which, and those that are missing read one token and count zero.

        Args:
            chunk_input_ids: `[C, T]` encoder token ids, right-padded.
            chunk_attention_mask: `[C, T]`, nonzero for real tokens; every chunk has at least one.
            num_soft_tokens: Most soft tokens that a chunk will have, where the dial is their number:
                from 1 to `config.max_soft_tokens` (the default).

        Returns:
            `[C, N, S]`, what is kept of them, in the adapter's dtype; `soften` makes soft tokens of it.

        Raises:
            E2LLMError: If K is out of range, or a chunk is empty or longer than the encoder reads.
        """
        num_soft_tokens = self.check_num_soft_tokens(num_soft_tokens)
        passes = list(self.passes(chunk_input_ids, chunk_attention_mask))
        num_missing = 0
        if self.agree_on_passes is not None:  # before the first pass: all processes must ask at one place
            num_missing = self.agree_on_passes(len(passes)) - len(passes)
        pieces, num_read = [], 0
        for item in passes:
            num_read += item.ids.numel()
            checks = num_read > self.unchecked_encoder_tokens
            pieces.append(self._read_pass(item.ids, item.mask, num_soft_tokens, checks))
        order = [item.rows for item in passes]
        # Sharded weights are gathered where they are touched: `_nothing_kept` only where all have no chunk.
        kept = join_kept(pieces, order) if passes else self._nothing_kept(num_soft_tokens)
        for _ in range(num_missing):
            token = chunk_input_ids.new_zeros((1, 1))
            kept = kept + 0 * self._read_pass(token, torch.ones_like(token), num_soft_tokens, True).sum()
        return kept

    def _read_pass(
        self, ids: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int, checks: bool
    ) -> torch.Tensor:
        """Return the kept states `[c, N, S]` of one pass with ids and mask `[c, T]`.

        With `checks`, an encoder that trains runs once more in the backward pass, to hold no activations.
        """
        trains_encoder = torch.is_grad_enabled() and any(
            p.requires_grad for p in self.chunk_encoder.parameters()
        )

        def read(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.keep(self.encode_states(ids, mask), mask, num_soft_tokens)

        if trains_encoder:
            kept: torch.Tensor = (
                checkpoint(read, ids, mask, use_reentrant=False) if checks else read(ids, mask)
            )
            return kept
        with torch.no_grad():
            states = self.encode_states(ids, mask)
        if not torch.is_grad_enabled():
            return self.keep(states, mask, num_soft_tokens)
        held: torch.Tensor = checkpoint(self.keep, states, mask, num_soft_tokens, use_reentrant=False)
        return held

    def _nothing_kept(self, num_soft_tokens: int) -> torch.Tensor:
        """Return kept states `[0, K, D]` for no chunks."""
        embeddings = self.get_input_embeddings()  # its weight may be sharded, to no size at all
        like: torch.Tensor = embeddings.weight.new_zeros(())
        return like.expand(0, num_soft_tokens, embeddings.embedding_dim)

    def check_num_soft_tokens(self, num_soft_tokens: int | None) -> int:
        """Return K (by default `config.max_soft_tokens`), or raise `E2LLMError` if it is out of range."""
        limit = self.config.max_soft_tokens
        if num_soft_tokens is None:
            return int(limit)
        if not 1 <= num_soft_tokens <= limit:
            raise E2LLMError(f"soft tokens per chunk must be from 1 to {limit}, got {num_soft_tokens}")
        return num_soft_tokens


def join_kept(pieces: list[torch.Tensor], order: list[torch.Tensor]) -> torch.Tensor:
    """Join the kept states of passes, `[c, n, S]` with rows `[c]`, into one `[C, N, S]` in order."""
    longest = max(piece.shape[1] for piece in pieces)
    padded = [functional.pad(piece, (0, 0, 0, longest - piece.shape[1])) for piece in pieces]
    return torch.cat(padded)[torch.argsort(torch.cat(order))]
