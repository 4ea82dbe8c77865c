"""The three parts of the model, and the road from chunks to the decoder's input embeddings.

Shapes: B samples, C chunks of the whole batch, T encoder tokens per chunk, E encoder width, K soft tokens per
chunk, L decoder tokens, D decoder embedding width.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.modeling.adapters import new_adapter
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.merging import find_placeholders, plan_passes, soft_tokens_per_chunk
from e2llm.modeling.parts import PartSource, encoder_build_kwargs, encoder_token_limit
from e2llm.process_memory import HeapTrimmer

_trim_heap = HeapTrimmer()  # this process's one heap, whatever models it holds
_SLACK_BETWEEN_PASSES = 2**30  # bytes
_SLACK_BEFORE_DECODER = 2**28


class CompositeModel(PreTrainedModel):  # type: ignore[misc]
    """An encoder, an adapter and a decoder.

    `chunk_encoder` reads each chunk, `adapter` makes K soft tokens of its token states, and these replace the
    embeddings of K placeholders in the input of `language_model`, a causal LM used as it is.
    """

    config_class = E2LLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: E2LLMConfig,
        chunk_encoder: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        """Build from a configuration; given parts are used as they are, the others start at random."""
        super().__init__(config)
        self.chunk_encoder = chunk_encoder or AutoModel.from_config(
            config.encoder_config, **encoder_build_kwargs(config.encoder_config)
        )
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        embeddings = self.language_model.get_input_embeddings()
        self.adapter = new_adapter(config, embeddings.embedding_dim)
        if config.chunk_token_id >= embeddings.num_embeddings:
            raise E2LLMError(
                f"chunk_token_id is {config.chunk_token_id}, the decoder has only "
                f"{embeddings.num_embeddings} embedding rows"
            )
        takes = inspect.signature(self.language_model.forward).parameters
        self._takes_position_ids = "position_ids" in takes
        self.takes_logits_to_keep = "logits_to_keep" in takes
        for part in (chunk_encoder, language_model):
            for module in part.modules() if part is not None else ():
                module._is_hf_initialized = True
        self.part_sources: dict[str, PartSource] = {}
        self.unchecked_encoder_tokens = 0
        # Set where weights are sharded: from this process's number of encoder passes to that of all.
        self.agree_on_passes: Callable[[int], int] | None = None
        self.post_init()
        self.generation_config = self.language_model.generation_config

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the adapter; the parts initialise themselves."""
        if module is self.adapter:
            queries = getattr(module, "queries", None)
            if queries is not None:
                nn.init.normal_(queries, std=queries.shape[-1] ** -0.5)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> Any:
        """The decoder's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the decoder's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The decoder's output head."""
        head: nn.Module | None = self.language_model.get_output_embeddings()
        return head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the decoder's output head."""
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """The decoder without its head."""
        decoder: nn.Module = self.language_model.get_decoder()
        return decoder

    def train(self, mode: bool = True) -> "CompositeModel":
        """Set training mode; a part that trains nothing stays in evaluation mode (no dropout there)."""
        super().train(mode)
        if mode:
            for part in (self.chunk_encoder, self.language_model):
                if not any(parameter.requires_grad for parameter in part.parameters()):
                    part.eval()
        return self

    def encode_states(
        self, chunk_input_ids: torch.Tensor, chunk_attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """One pass of the encoder: `[C, T]` ids and mask (None: no padding) to `[C, T, E]` token states."""
        outputs = self.chunk_encoder(input_ids=chunk_input_ids, attention_mask=chunk_attention_mask)
        states: torch.Tensor = outputs.last_hidden_state
        return states

    def adapt(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """Token states `[C, T, E]` with their mask `[C, T]` to soft tokens `[C, K, D]`."""
        dtype = next(self.adapter.parameters()).dtype
        soft_tokens: torch.Tensor = self.adapter(states.to(dtype), mask, num_soft_tokens)
        return soft_tokens

    def adapt_in_passes(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """`adapt`, pass by pass and, with gradients, under activation checkpointing: memory of one pass."""
        pieces, order = [], []
        for rows, length in plan_passes(mask, self.config.encoder_batch_tokens):
            order.append(rows)
            part = (states[rows, :length], mask[rows, :length], num_soft_tokens)
            if torch.is_grad_enabled():
                pieces.append(checkpoint(self.adapt, *part, use_reentrant=False))
            else:
                pieces.append(self.adapt(*part))
        return torch.cat(pieces)[torch.argsort(torch.cat(order))]

    def encode_chunks(
        self,
        chunk_input_ids: torch.Tensor,
        chunk_attention_mask: torch.Tensor,
        num_soft_tokens: int | None = None,
        *,
        gradient_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Make the soft tokens of chunks: the one place that encodes chunks.

        The chunks are read in passes of at most `config.encoder_batch_tokens` tokens, sorted by length so
        that little padding is read, and come back in their order. With gradients each pass runs under
        activation checkpointing, but for the first passes of at most `unchecked_encoder_tokens` tokens, whose
        activations are kept to save the second computation: if the encoder trains, memory stays that of one
        pass and of what is kept; if it is frozen, the token states alone are kept. The gradients equal the
        plain ones.

        A sharded model's weights are gathered by all processes at once, so that all must make the same number
        of passes: `agree_on_passes` says which, and those that are missing read one token and count zero.

        Args:
            chunk_input_ids: `[C, T]` encoder token ids, right-padded.
            chunk_attention_mask: `[C, T]`, nonzero for real tokens; every chunk has at least one.
            num_soft_tokens: K, from 1 to `config.max_soft_tokens` (the default).
            gradient_mask: `[C]` bool, which chunks gradients flow through, at least one of them. These
                gradients are multiplied by C / their number: over draws of the mask, the expected gradient
                is that of all chunks (chosen here). None: all.

        Returns:
            `[C, K, D]` soft tokens in the adapter's dtype.

        Raises:
            E2LLMError: If K is out of range, or a chunk is empty or longer than the encoder reads.
        """
        num_soft_tokens = self.check_num_soft_tokens(num_soft_tokens)
        has_gradients = torch.is_grad_enabled()
        if gradient_mask is not None and has_gradients and not bool(gradient_mask.all()):
            return self._encode_sampled(chunk_input_ids, chunk_attention_mask, num_soft_tokens, gradient_mask)
        trains_encoder = has_gradients and any(p.requires_grad for p in self.chunk_encoder.parameters())
        limit = encoder_token_limit(config=self.config.encoder_config)

        def read(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.adapt(self.encode_states(ids, mask), mask, num_soft_tokens)

        def read_pass(ids: torch.Tensor, mask: torch.Tensor, keeps: bool = False) -> torch.Tensor:
            soft_tokens: torch.Tensor
            if trains_encoder and keeps:
                return read(ids, mask)
            if trains_encoder:
                soft_tokens = checkpoint(read, ids, mask, use_reentrant=False)
                _trim_heap(_SLACK_BETWEEN_PASSES)
                soft_tokens.register_hook(_trim_before_backward)  # type: ignore[no-untyped-call]
                return soft_tokens
            with torch.no_grad():
                states = self.encode_states(ids, mask)
            if not has_gradients:
                return self.adapt(states, mask, num_soft_tokens)
            soft_tokens = checkpoint(self.adapt, states, mask, num_soft_tokens, use_reentrant=False)
            return soft_tokens

        passes = list(plan_passes(chunk_attention_mask, self.config.encoder_batch_tokens))
        if passes and passes[0][1] > limit:
            raise E2LLMError(
                f"a chunk has {passes[0][1]} encoder tokens, the encoder reads {limit}; split it"
            )
        num_missing = self._missing_passes(len(passes))  # before the first: all must ask at the same place
        pieces, order, num_tokens = [], [], 0
        for rows, length in passes:
            ids, mask = chunk_input_ids[rows, :length], chunk_attention_mask[rows, :length]
            num_tokens += ids.numel()
            pieces.append(read_pass(ids, mask, num_tokens <= self.unchecked_encoder_tokens))
            order.append(rows)
        if trains_encoder:
            _trim_heap(_SLACK_BEFORE_DECODER)
        if pieces:
            soft_tokens = torch.cat(pieces)[torch.argsort(torch.cat(order))]
        else:
            embeddings = self.get_input_embeddings()  # its weight may be sharded, to no size at all
            like = embeddings.weight.new_zeros(())
            soft_tokens = like.expand(0, num_soft_tokens, embeddings.embedding_dim)
        for _ in range(num_missing):
            token = chunk_input_ids.new_zeros((1, 1))
            soft_tokens = soft_tokens + 0 * read_pass(token, torch.ones_like(token)).sum()
        return soft_tokens

    def _encode_sampled(
        self, ids: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int, gradient_mask: torch.Tensor
    ) -> torch.Tensor:
        """`encode_chunks` with gradients through the chunks of the mask alone, scaled to stand for all."""
        chosen, others = gradient_mask.nonzero().squeeze(1), (~gradient_mask).nonzero().squeeze(1)
        if not len(chosen):
            raise E2LLMError("gradient_mask chooses no chunk; let gradients flow through one at least")
        with torch.no_grad():
            constant = self.encode_chunks(ids[others], mask[others], num_soft_tokens)
        trained = self.encode_chunks(ids[chosen], mask[chosen], num_soft_tokens)
        scale = len(ids) / len(chosen)
        trained.register_hook(lambda gradient: gradient * scale)  # type: ignore[no-untyped-call]
        return torch.cat([trained, constant])[torch.argsort(torch.cat([chosen, others]))]

    def merge(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        chunk_input_ids: torch.Tensor | None = None,
        chunk_attention_mask: torch.Tensor | None = None,
        chunk_states: torch.Tensor | None = None,
        chunk_embeds: torch.Tensor | None = None,
        chunk_index: torch.Tensor | None = None,
        chunk_gradient_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed the input and put the soft tokens in the places of the placeholders.

        Give one of `chunk_input_ids`, `chunk_states` and `chunk_embeds`, or none for an input without chunks.
        Chunks stand in the order of their placeholders, over the whole batch.

        Args:
            input_ids: `[B, L]` decoder token ids with K placeholders per chunk.
            attention_mask: `[B, L]`, or longer where a cache holds what came before; masked placeholders do
                not count.
            chunk_input_ids: `[C, T]` encoder token ids.
            chunk_attention_mask: `[C, T]`.
            chunk_states: `[C, T, E]` token states of the encoder, computed earlier.
            chunk_embeds: `[C, K', D]` soft tokens, computed earlier; the first K of the K' are used.
            chunk_index: `[P]` row of the chunk that stands at each of P places, so that a chunk that stands
                at several (questions about one context) is read once; by default each row stands once.
            chunk_gradient_mask: `[C]` bool, see `encode_chunks`.

        Returns:
            `[B, L, D]` embeddings.

        Raises:
            E2LLMError: If placeholders and chunks do not match.
            ContextOverflowError: If the input is longer than the decoder's window.
        """
        self._check_window(input_ids.shape[1])
        is_placeholder = find_placeholders(input_ids, attention_mask, self.config.chunk_token_id)
        embeds: torch.Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_placeholder, 0))
        chunks = [item for item in (chunk_input_ids, chunk_states, chunk_embeds) if item is not None]
        if len(chunks) > 1:
            raise E2LLMError("give only one of chunk_input_ids, chunk_states and chunk_embeds")
        num_chunks = 0 if not chunks else len(chunks[0] if chunk_index is None else chunk_index)
        num_soft_tokens = soft_tokens_per_chunk(is_placeholder, num_chunks)
        if num_soft_tokens == 0:
            return embeds + 0 * self._dummy_chunk(embeds) if self._all_take_part() else embeds
        self.check_num_soft_tokens(num_soft_tokens)
        if chunk_embeds is not None:
            if chunk_embeds.shape[1] < num_soft_tokens:
                raise E2LLMError(
                    f"chunk_embeds holds {chunk_embeds.shape[1]} soft tokens per chunk, the input asks for "
                    f"{num_soft_tokens}"
                )
            soft_tokens = chunk_embeds[:, :num_soft_tokens]
        elif chunk_attention_mask is None:
            raise E2LLMError("chunk_attention_mask is missing; the processor makes it")
        elif chunk_states is not None:
            soft_tokens = self.adapt_in_passes(chunk_states, chunk_attention_mask, num_soft_tokens)
        else:
            soft_tokens = self.encode_chunks(
                chunks[0], chunk_attention_mask, num_soft_tokens, gradient_mask=chunk_gradient_mask
            )
        if chunk_index is not None:
            soft_tokens = soft_tokens[chunk_index]
        soft_tokens = soft_tokens.to(device=embeds.device, dtype=embeds.dtype)
        return embeds.masked_scatter(is_placeholder.unsqueeze(-1), soft_tokens)

    def check_num_soft_tokens(self, num_soft_tokens: int | None) -> int:
        """Return K (by default `config.max_soft_tokens`), or raise `E2LLMError` if it is out of range."""
        limit = self.config.max_soft_tokens
        if num_soft_tokens is None:
            return int(limit)
        if not 1 <= num_soft_tokens <= limit:
            raise E2LLMError(f"soft tokens per chunk must be from 1 to {limit}, got {num_soft_tokens}")
        return num_soft_tokens

    def _check_window(self, num_positions: int) -> None:
        window = getattr(self.config.text_config, "max_position_embeddings", None)
        if window is not None and num_positions > window:
            raise ContextOverflowError(
                f"the input has {num_positions} positions, the decoder's window has {window}: "
                f"{num_positions - window} too many; use fewer soft tokens per chunk or a shorter context"
            )

    def _missing_passes(self, num_passes: int) -> int:
        """How many passes of the encoder this process makes for the sake of the others alone."""
        return self.agree_on_passes(num_passes) - num_passes if self.agree_on_passes is not None else 0

    def _all_take_part(self) -> bool:
        """Whether encoder and adapter run without chunks, too: where they train, or processes wait for it."""
        parts = (self.chunk_encoder, self.adapter)
        trains = self.training and any(item.requires_grad for part in parts for item in part.parameters())
        return trains or self.agree_on_passes is not None

    def _dummy_chunk(self, embeds: torch.Tensor) -> torch.Tensor:
        """Sum of the soft tokens of a one-token chunk: so a batch without chunks uses every parameter too."""
        ids = torch.zeros((1, 1), dtype=torch.long, device=embeds.device)
        return self.encode_chunks(ids, torch.ones_like(ids)).sum().to(embeds.dtype)


def _trim_before_backward(_gradient: torch.Tensor) -> None:
    """A hook that keeps the heap small while the passes are computed again."""
    _trim_heap(_SLACK_BETWEEN_PASSES)
