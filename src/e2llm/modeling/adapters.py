"""Adapters: make a chunk's soft tokens from the encoder's token states, in two steps.

Reading makes what a store keeps of a chunk (`forward`); asking makes soft tokens of that (`soft_tokens`), as
many of each chunk as its place in the window asks for. `pooling` keeps pooled states and its dial is the
rate, encoder tokens per soft token; `attention` and `mlp` keep soft tokens, and their dial is how many of
them are used.

Shapes: C chunks, T encoder tokens per chunk, E encoder width (times the number of layers read), N kept states
per chunk, S their width, P places at which chunks are in the input, R soft tokens in all, D decoder width.
A new adapter is one subclass of `Adapter` and one line in `ADAPTERS`; docs/extending.md shows one.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from e2llm.errors import E2LLMError
from e2llm.modeling.rates import coarsen, group_means, rates_of_counts


def pool_states(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return one vector per chunk.

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


class Adapter(nn.Module):
    """Base class of adapters: made from widths and settings, called with the states of chunks.

    A class is made as `(encoder_size, decoder_size, max_soft_tokens=, num_heads=, pooling=, scale=)`,
    uses of these what it needs, and refuses with `E2LLMError` what it cannot do. The model asks of it:

    - the first K soft tokens do not depend on K: contexts are encoded at the most and sliced;
    - states at masked places do not matter, nor do the other chunks of a call;
    - every parameter trains; linear layers and norms are initialised by the model, others by the adapter.

    Attributes:
        dial: What a user turns: `soft_tokens`, a number per chunk, or `rate`, encoder tokens per soft token.
            An adapter of the latter kind also has `finest_rate` and `kept_size`, the width S that it keeps.
    """

    dial: ClassVar[Literal["soft_tokens", "rate"]] = "soft_tokens"

    def forward(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """Return the states to keep of each chunk when it is read; here its soft tokens.

        Args:
            states: `[C, T, E]` token states of the encoder.
            mask: `[C, T]`, nonzero for real tokens; every chunk has one at least.
            num_soft_tokens: K, from 1 to `max_soft_tokens`; an adapter whose dial is the rate ignores it.

        Returns:
            `[C, K, D]` soft tokens (`[C, N, S]` pooled states), in the dtype of the adapter.
        """
        raise NotImplementedError

    def soft_tokens(
        self, kept: torch.Tensor, num_tokens: torch.Tensor, num_soft_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return soft tokens made from kept states when a question is asked; here the first of each chunk.

        Args:
            kept: `[P, N, S]` of `forward`, a row for each place.
            num_tokens: `[P]` int64, encoder tokens of each chunk.
            num_soft_tokens: `[P]` int64, how many each place takes, 1 or more.

        Returns:
            `[R, D]` soft tokens of all places, one after the other.

        Raises:
            E2LLMError: If a place takes more than its chunk has, or a number that the adapter cannot make.
        """
        if bool((num_soft_tokens > kept.shape[1]).any()):
            raise E2LLMError(
                f"a chunk has {kept.shape[1]} soft tokens, but the input needs {int(num_soft_tokens.max())}"
            )
        places = torch.arange(kept.shape[1], device=kept.device)
        return kept[places < num_soft_tokens[:, None]]

    def reading_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that `forward` uses, which decide the states in a store."""
        return dict(self.state_dict())

    def initialize(self) -> None:
        """Initialise the weights outside linear layers and norms; use only `torch.nn.init`."""


class MLPAdapter(Adapter):
    """Two linear layers with GELU over the first token's state or the mean (paper v1): one soft token."""

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
        """Pool and project to `[C, 1, D]` soft tokens; see `Adapter.forward`."""
        pooled = pool_states(states, mask, self.pooling)
        hidden = self.output_projection(functional.gelu(self.input_projection(pooled)))
        soft_token: torch.Tensor = self.norm(hidden) * self.scale
        return soft_token.unsqueeze(1)


class AttentionPoolingAdapter(Adapter):
    """Let learned queries attend to all token states of a chunk (paper v2); soft tokens are nested.

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

    def initialize(self) -> None:
        """Initialise the queries."""
        nn.init.normal_(self.queries, std=self.queries.shape[-1] ** -0.5)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """Pool by attention to `[C, K, D]` soft tokens; see `Adapter.forward`."""
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
        attended = attended.transpose(1, 2).reshape(num_chunks, num_soft_tokens, width)
        hidden = self.attention_norm(self.output_projection(attended) + queries)
        feed_forward = self.feed_forward_out(functional.gelu(self.feed_forward_in(hidden)))
        soft_tokens: torch.Tensor = self.output_norm(hidden + feed_forward) * self.scale
        return soft_tokens


class PoolingAdapter(Adapter):
    """Average neighbouring token states in groups; an MLP turns each group into a soft token.

    Reading: a group of `finest_rate` neighbours (the last one shorter, divided by its own length) is averaged
    and projected to the width that a store keeps. Asking: kept states are averaged to the rate of each place,
    weighted by their tokens, so that a coarser rate equals reading at that rate; then
    `soft = skip(x) + MLP(RMSNorm(x))`. The MLP starts at zero and no norm follows, so that a new adapter is
    linear and its soft tokens may grow freely (chosen here, docs/fidelity.md; grouping as in LCLM, pooling by
    the mean as in arXiv 2510.20797). `e2llm.modeling.ridge` fits the linear start.

    Args:
        encoder_size: E, the encoder's width times the number of layers read.
        decoder_size: D.
        max_soft_tokens: Not used: the dial is the rate.
        num_heads: Not used.
        pooling: Not used.
        scale: Root mean square that soft tokens start with where the states have 1.
        finest_rate: Encoder tokens per kept state, a power of two.
    """

    dial = "rate"

    def __init__(
        self,
        encoder_size: int,
        decoder_size: int,
        *,
        max_soft_tokens: int,
        num_heads: int,
        pooling: str,
        scale: float,
        finest_rate: int = 1,
    ) -> None:
        super().__init__()
        self.finest_rate = finest_rate
        self.start_scale = scale
        self.kept_size = min(encoder_size, decoder_size)
        self.projection = nn.Linear(encoder_size, self.kept_size)
        self.head = PoolingHead(self.kept_size, decoder_size)

    def initialize(self) -> None:
        """Start at the scale of the decoder's token embeddings, with an MLP that adds nothing."""
        nn.init.normal_(self.projection.weight, std=self.start_scale * self.projection.in_features**-0.5)
        nn.init.zeros_(self.head.down.weight)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int = 0) -> torch.Tensor:
        """Pool at the finest rate and project to `[C, N, S]`, zero after a chunk's own states."""
        means, is_group = group_means(states, mask, self.finest_rate)
        projected = self.projection(means[is_group])
        kept = projected.new_zeros(*means.shape[:2], projected.shape[-1])
        scattered: torch.Tensor = kept.masked_scatter(is_group.unsqueeze(-1), projected)
        return scattered

    def soft_tokens(
        self, kept: torch.Tensor, num_tokens: torch.Tensor, num_soft_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Average the kept states to each chunk's rate, and make soft tokens from them; see `Adapter`."""
        rates = rates_of_counts(num_tokens, num_soft_tokens, self.finest_rate)
        soft_tokens: torch.Tensor = self.head(coarsen(kept, num_tokens, rates, self.finest_rate))
        return soft_tokens

    def reading_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the projection, the only part of the adapter that reading uses."""
        return dict(self.projection.state_dict())


class PoolingHead(nn.Module):
    """Turn pooled states `[R, S]` into soft tokens `[R, D]`: `skip(x) + MLP(RMSNorm(x))`."""

    def __init__(self, width: int, decoder_size: int) -> None:
        super().__init__()
        self.skip = nn.Identity() if width == decoder_size else nn.Linear(width, decoder_size)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 2 * decoder_size)
        self.down = nn.Linear(2 * decoder_size, decoder_size)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return soft tokens `[R, D]` for pooled states `[R, S]`."""
        soft_tokens: torch.Tensor = self.skip(pooled) + self.down(functional.gelu(self.up(self.norm(pooled))))
        return soft_tokens


ADAPTERS: dict[str, type[Adapter]] = {
    "pooling": PoolingAdapter,
    "attention": AttentionPoolingAdapter,
    "mlp": MLPAdapter,
}


def new_adapter(config: Any, decoder_size: int) -> Adapter:
    """Return the adapter that an `E2LLMConfig` names, with random weights.

    Args:
        config: The composite model's configuration.
        decoder_size: D, the width of the decoder's token embeddings.

    Raises:
        E2LLMError: If there is no adapter of that name, or a setting does not fit it.
    """
    if config.adapter not in ADAPTERS:
        raise E2LLMError(f"adapter must be one of {', '.join(ADAPTERS)}, got {config.adapter!r}")
    made = ADAPTERS[config.adapter]
    more = {"finest_rate": config.finest_rate} if made.dial == "rate" else {}
    return made(
        config.encoder_config.hidden_size * len(config.encoder_layers or [-1]),
        decoder_size,
        max_soft_tokens=config.max_soft_tokens,
        num_heads=config.adapter_num_heads,
        pooling=config.pooling,
        scale=config.soft_token_scale,
        **more,
    )
