"""Adapters: from an encoder's token states of one chunk to its soft tokens.

Shapes: C chunks, T encoder tokens per chunk, E encoder width, K soft tokens per chunk, D decoder width.
A new adapter is one subclass of `Adapter` and one line in `ADAPTERS`; docs/extending.md shows one.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from e2llm.errors import E2LLMError

LEAST_ROWS = 16


def pool_states(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector per chunk.

    Args:
        states: `[C, T, E]` token states of the encoder.
        mask: `[C, T]`, nonzero for real tokens.
        pooling: `cls`, the first token's state, or `mean`.

    Returns:
        `[C, E]`, in the dtype of the states.
    """
    if pooling == "cls":
        first = mask.bool().int().argmax(dim=1)
        return states[torch.arange(len(states), device=states.device), first]
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def pad_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows `[N, D]` with zero rows added up to `LEAST_ROWS`, where no gradient is wanted.

    Matrix products of few rows take other kernels, so that a row's bits would depend on how many chunks are
    read together; from `LEAST_ROWS` up they do not.
    """
    missing = LEAST_ROWS - len(rows)
    return rows if missing <= 0 or torch.is_grad_enabled() else functional.pad(rows, (0, 0, 0, missing))


class Adapter(nn.Module):
    """What every adapter is: made from widths and settings, called with the states of some chunks.

    A class is made as `(encoder_size, decoder_size, max_soft_tokens=, num_heads=, pooling=, scale=)`,
    uses of these what it needs, and refuses with `E2LLMError` what it cannot do. The model asks of it:

    - the first K soft tokens do not depend on K: contexts are encoded at the most and sliced;
    - states at masked places do not matter, nor do the other chunks of a call;
    - every parameter trains; linear layers and norms are initialised by the model, others by the adapter.

    Attributes:
        scale: `[]`, a learned factor of the soft tokens that starts at the `scale` it was made with.
    """

    scale: nn.Parameter

    def forward(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """Make soft tokens.

        Args:
            states: `[C, T, E]` token states of the encoder.
            mask: `[C, T]`, nonzero for real tokens; every chunk has one at least.
            num_soft_tokens: K, from 1 to `max_soft_tokens`.

        Returns:
            `[C, K, D]` soft tokens, in the dtype of the adapter.
        """
        raise NotImplementedError


class MLPAdapter(Adapter):
    """Two linear layers with GELU over one vector per chunk (paper v1): one soft token per chunk.

    The vector is the first token's state or the mean of the chunk's token states.
    """

    def __init__(
        self,
        encoder_size: int,
        decoder_size: int,
        *,
        max_soft_tokens: int,
        num_heads: int,
        pooling: str,
        scale: float,
    ) -> None:
        super().__init__()
        if max_soft_tokens != 1:
            raise E2LLMError(
                f"the 'mlp' adapter makes 1 soft token per chunk, got max_soft_tokens={max_soft_tokens}; "
                "set max_soft_tokens=1 or use adapter='attention'"
            )
        if pooling not in ("cls", "mean"):
            raise E2LLMError(f"pooling must be 'cls' or 'mean', got {pooling!r}")
        self.pooling = pooling
        self.input_projection = nn.Linear(encoder_size, decoder_size)
        self.output_projection = nn.Linear(decoder_size, decoder_size)
        self.norm = nn.LayerNorm(decoder_size)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """Pool and project.

        Args:
            states: `[C, T, E]` token states of the encoder.
            mask: `[C, T]`, nonzero for real tokens.
            num_soft_tokens: 1.

        Returns:
            `[C, 1, D]` soft tokens.
        """
        pooled = pool_states(states, mask, self.pooling)
        rows = pad_rows(pooled)
        hidden = self.output_projection(functional.gelu(self.input_projection(rows)))
        soft_token: torch.Tensor = self.norm(hidden[: len(pooled)]) * self.scale
        return soft_token.unsqueeze(1)


class AttentionPoolingAdapter(Adapter):
    """Learned queries attend to all token states of a chunk (paper v2), with nested soft tokens.

    For each query q: `h = LN(MHA(q, X W_K, X W_V) + q)`, `c = LN(h + FFN(h))`. The paper has one query; here
    there are `max_soft_tokens` of them and the first K are used, so that one model serves every K (chosen
    here: docs/fidelity.md). Queries do not see each other: the first K of a larger set equal a set of K.
    The soft tokens are multiplied by a learned scale that starts at the decoder's embedding scale (chosen
    here).
    """

    def __init__(
        self,
        encoder_size: int,
        decoder_size: int,
        *,
        max_soft_tokens: int,
        num_heads: int,
        pooling: str,
        scale: float,
    ) -> None:
        super().__init__()
        if decoder_size % num_heads:
            raise E2LLMError(
                f"adapter_num_heads={num_heads} does not divide the decoder's width {decoder_size}; "
                "choose a divisor"
            )
        self.num_heads = num_heads
        self.queries = nn.Parameter(torch.empty(max_soft_tokens, decoder_size))
        self.query_projection = nn.Linear(decoder_size, decoder_size)
        self.key_projection = nn.Linear(encoder_size, decoder_size)
        self.value_projection = nn.Linear(encoder_size, decoder_size)
        self.output_projection = nn.Linear(decoder_size, decoder_size)
        self.attention_norm = nn.LayerNorm(decoder_size)
        self.feed_forward_in = nn.Linear(decoder_size, 4 * decoder_size)
        self.feed_forward_out = nn.Linear(4 * decoder_size, decoder_size)
        self.output_norm = nn.LayerNorm(decoder_size)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """Pool by attention.

        Args:
            states: `[C, T, E]` token states of the encoder.
            mask: `[C, T]`, nonzero for real tokens.
            num_soft_tokens: K, from 1 to the number of queries.

        Returns:
            `[C, K, D]` soft tokens.
        """
        num_chunks, num_tokens, _ = states.shape
        queries = self.queries[:num_soft_tokens]
        width = queries.shape[-1]
        head_size = width // self.num_heads

        def heads(projected: torch.Tensor, length: int) -> torch.Tensor:
            return projected.view(-1, length, self.num_heads, head_size).transpose(1, 2)

        attended = functional.scaled_dot_product_attention(
            heads(self.query_projection(queries), num_soft_tokens).expand(num_chunks, -1, -1, -1),
            heads(self.key_projection(states), num_tokens),
            heads(self.value_projection(states), num_tokens),
            attn_mask=mask.bool()[:, None, None, :],
        )
        attended = pad_rows(attended.transpose(1, 2).reshape(num_chunks * num_soft_tokens, width))
        copies = -(-len(attended) // num_soft_tokens)
        hidden = self.output_projection(attended) + queries.repeat(copies, 1)[: len(attended)]
        hidden = self.attention_norm(hidden)
        feed_forward = self.feed_forward_out(functional.gelu(self.feed_forward_in(hidden)))
        soft_tokens: torch.Tensor = self.output_norm(hidden + feed_forward) * self.scale
        return soft_tokens[: num_chunks * num_soft_tokens].view(num_chunks, num_soft_tokens, width)


ADAPTERS: dict[str, type[Adapter]] = {
    "mlp": MLPAdapter,
    "attention": AttentionPoolingAdapter,
}


def new_adapter(config: Any, decoder_size: int) -> Adapter:
    """Make the adapter that an `E2LLMConfig` asks for, with random weights.

    Args:
        config: The composite model's configuration.
        decoder_size: D, the width of the decoder's token embeddings.

    Raises:
        E2LLMError: If there is no adapter of that name, or a setting does not fit it.
    """
    if config.adapter not in ADAPTERS:
        raise E2LLMError(f"adapter must be one of {', '.join(ADAPTERS)}, got {config.adapter!r}")
    return ADAPTERS[config.adapter](
        config.encoder_config.hidden_size,
        decoder_size,
        max_soft_tokens=config.max_soft_tokens,
        num_heads=config.adapter_num_heads,
        pooling=config.pooling,
        scale=config.soft_token_scale,
    )
