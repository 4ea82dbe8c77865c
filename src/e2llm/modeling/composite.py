"""The three parts of the model, and the road from chunks to the decoder's input embeddings.

Shapes: B samples, C chunks of the whole batch, P places at which chunks are, T encoder tokens per chunk,
E encoder width times the number of layers read, N kept states per chunk, S their width, K soft tokens per
chunk, R soft tokens in all, L decoder tokens, D decoder embedding width.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.modeling.adapters import Adapter, new_adapter
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.encoder_attention import encoder_options, prepare_encoder
from e2llm.modeling.merging import find_placeholders, plan_passes, soft_tokens_of_places
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
        bidirectional = config.encoder_attention == "bidirectional"
        prepare_encoder(self.chunk_encoder, bidirectional)
        self._encoder_options = encoder_options(self.chunk_encoder, bidirectional)
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
            self.adapter.initialize()
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            nn.init.ones_(module.weight)
            if isinstance(getattr(module, "bias", None), torch.Tensor):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

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

    def encode_layers(
        self, chunk_input_ids: torch.Tensor, chunk_attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass of the encoder.

        Args:
            chunk_input_ids: `[C, T]` ids.
            chunk_attention_mask: `[C, T]`; None: no padding.

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
        self, chunk_input_ids: torch.Tensor, chunk_attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """One pass of the encoder: `[C, T]` ids and mask (None: no padding) to `[C, T, E]` states."""
        return self.encode_layers(chunk_input_ids, chunk_attention_mask)[0]

    def keep(
        self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int | None = None
    ) -> torch.Tensor:
        """What is kept of chunks: token states `[C, T, E]` with their mask `[C, T]` to `[C, N, S]`.

        Args:
            states: Of `encode_states`.
            mask: Nonzero for real tokens.
            num_soft_tokens: Most soft tokens that a chunk will be asked for, where the dial is their number.
        """
        dtype = next(self.adapter.parameters()).dtype
        kept: torch.Tensor = self.adapter(
            states.to(dtype), mask, num_soft_tokens or self.config.max_soft_tokens
        )
        return kept

    def keep_in_passes(
        self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int | None = None
    ) -> torch.Tensor:
        """`keep`, pass by pass and, with gradients, under activation checkpointing: memory of one pass."""
        pieces, order = [], []
        for rows, length in plan_passes(mask, self.config.encoder_batch_tokens):
            order.append(rows)
            part = (states[rows, :length], mask[rows, :length], num_soft_tokens)
            if torch.is_grad_enabled():
                pieces.append(checkpoint(self.keep, *part, use_reentrant=False))
            else:
                pieces.append(self.keep(*part))
        return join_kept(pieces, order)

    def soften(
        self, kept: torch.Tensor, num_tokens: torch.Tensor, num_soft_tokens: torch.Tensor
    ) -> torch.Tensor:
        """What is kept of chunks to their soft tokens: the second half of the adapter.

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
        *,
        gradient_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Read chunks: the one place that encodes chunks in training.

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
            num_soft_tokens: Most soft tokens that a chunk will be asked for, where the dial is their number:
                from 1 to `config.max_soft_tokens` (the default).
            gradient_mask: `[C]` bool, which chunks gradients flow through, at least one of them. These
                gradients are multiplied by C / their number: over draws of the mask, the expected gradient
                is that of all chunks (chosen here). None: all.

        Returns:
            `[C, N, S]`, what is kept of them, in the adapter's dtype; `soften` makes soft tokens of it.

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
            return self.keep(self.encode_states(ids, mask), mask, num_soft_tokens)

        def read_pass(ids: torch.Tensor, mask: torch.Tensor, keeps: bool = False) -> torch.Tensor:
            kept: torch.Tensor
            if trains_encoder and keeps:
                return read(ids, mask)
            if trains_encoder:
                kept = checkpoint(read, ids, mask, use_reentrant=False)
                _trim_heap(_SLACK_BETWEEN_PASSES)
                kept.register_hook(_trim_before_backward)  # type: ignore[no-untyped-call]
                return kept
            with torch.no_grad():
                states = self.encode_states(ids, mask)
            if not has_gradients:
                return self.keep(states, mask, num_soft_tokens)
            kept = checkpoint(self.keep, states, mask, num_soft_tokens, use_reentrant=False)
            return kept

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
        kept = join_kept(pieces, order) if pieces else self._nothing_kept(num_soft_tokens)
        for _ in range(num_missing):
            token = chunk_input_ids.new_zeros((1, 1))
            kept = kept + 0 * read_pass(token, torch.ones_like(token)).sum()
        return kept

    def _nothing_kept(self, num_soft_tokens: int) -> torch.Tensor:
        """`[0, K, D]`, what is kept of no chunk."""
        embeddings = self.get_input_embeddings()  # its weight may be sharded, to no size at all
        like: torch.Tensor = embeddings.weight.new_zeros(())
        return like.expand(0, num_soft_tokens, embeddings.embedding_dim)

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
        return join_kept([trained, constant], [chosen, others])

    def merge(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        chunk_input_ids: torch.Tensor | None = None,
        chunk_attention_mask: torch.Tensor | None = None,
        chunk_states: torch.Tensor | None = None,
        chunk_embeds: torch.Tensor | None = None,
        chunk_index: torch.Tensor | None = None,
        chunk_num_soft_tokens: torch.Tensor | None = None,
        chunk_gradient_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed the input and put the soft tokens in the places of the placeholders.

        Give one of `chunk_input_ids`, `chunk_states` and `chunk_embeds`, or none for an input without chunks.
        Chunks stand in the order of their placeholders, over the whole batch.

        Args:
            input_ids: `[B, L]` decoder token ids with a placeholder for each soft token.
            attention_mask: `[B, L]`, or longer where a cache holds what came before; masked placeholders do
                not count.
            chunk_input_ids: `[C, T]` encoder token ids.
            chunk_attention_mask: `[C, T]`.
            chunk_states: `[C, T, E]` token states of the encoder, computed earlier.
            chunk_embeds: Soft tokens, computed earlier: `[R, D]`, one for each placeholder, or `[C, K', D]`,
                of which the first K of each chunk are used.
            chunk_index: `[P]` row of the chunk at each of P places, so that a chunk that is at several
                (questions about one context, several rates) is read once; by default each row is used once.
            chunk_num_soft_tokens: `[P]` soft tokens at each place; by default all have equally many.
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
        if chunk_embeds is not None and chunk_embeds.dim() == 2:
            soft_tokens = check_flat(chunk_embeds, is_placeholder)
        else:
            num_places = 0 if not chunks else len(chunks[0] if chunk_index is None else chunk_index)
            counts = soft_tokens_of_places(is_placeholder, num_places, chunk_num_soft_tokens)
            if not num_places:
                return embeds + 0 * self._dummy_chunk(embeds) if self._all_take_part() else embeds
            kept, num_tokens = self._kept_of(
                counts, chunk_attention_mask, chunk_input_ids, chunk_states, chunk_embeds, chunk_gradient_mask
            )
            if chunk_index is not None:
                kept, num_tokens = kept[chunk_index], num_tokens[chunk_index]
            if chunk_embeds is not None:
                soft_tokens = Adapter.soft_tokens(self.adapter, kept, num_tokens, counts.to(kept.device))
            else:
                soft_tokens = self.soften(kept, num_tokens, counts)
        soft_tokens = soft_tokens.to(device=embeds.device, dtype=embeds.dtype)
        return embeds.masked_scatter(is_placeholder.unsqueeze(-1), soft_tokens)

    def _kept_of(
        self,
        counts: torch.Tensor,
        mask: torch.Tensor | None,
        ids: torch.Tensor | None,
        states: torch.Tensor | None,
        embeds: torch.Tensor | None,
        gradient_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is kept of a batch's chunks, `[C, N, S]`, and the encoder tokens of each, `[C]`."""
        most: int | None = None
        if self.adapter.dial == "soft_tokens":
            most = self.check_num_soft_tokens(int(counts.max()))
        if embeds is not None:
            return embeds, torch.ones(len(embeds), dtype=torch.long, device=embeds.device)
        if mask is None:
            raise E2LLMError("chunk_attention_mask is missing; the processor makes it")
        num_tokens = mask.ne(0).sum(dim=1)
        if states is not None:
            return self.keep_in_passes(states, mask, most), num_tokens
        assert ids is not None
        return self.encode_chunks(ids, mask, most, gradient_mask=gradient_mask), num_tokens

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
        one = torch.ones_like(ids)
        kept = self.encode_chunks(ids, one)
        count = one[0] * (kept.shape[1] if self.adapter.dial == "soft_tokens" else 1)
        return self.soften(kept, one[0], count).sum().to(embeds.dtype)


def join_kept(pieces: list[torch.Tensor], order: list[torch.Tensor]) -> torch.Tensor:
    """What passes kept of their chunks, `[c, n, S]` each, as one `[C, N, S]` in the order of the chunks.

    Args:
        pieces: Of each pass; shorter ones are filled up with zeros.
        order: `[c]` rows of each pass's chunks.
    """
    longest = max(piece.shape[1] for piece in pieces)
    padded = [functional.pad(piece, (0, 0, 0, longest - piece.shape[1])) for piece in pieces]
    return torch.cat(padded)[torch.argsort(torch.cat(order))]


def check_flat(soft_tokens: torch.Tensor, is_placeholder: torch.Tensor) -> torch.Tensor:
    """Return soft tokens `[R, D]`; raises `E2LLMError` unless there is one for each placeholder `[B, L]`."""
    total = int(is_placeholder.sum())
    if len(soft_tokens) != total:
        raise E2LLMError(
            f"chunk_embeds holds {len(soft_tokens)} soft tokens, the input has {total} placeholders"
        )
    return soft_tokens


def _trim_before_backward(_gradient: torch.Tensor) -> None:
    """A hook that keeps the heap small while the passes are computed again."""
    _trim_heap(_SLACK_BETWEEN_PASSES)
