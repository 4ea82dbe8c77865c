"""The three parts of the model, and the path from chunks to the decoder's input embeddings.

Shapes: B samples, C chunks of the whole batch, P places at which chunks are, T encoder tokens per chunk,
E encoder width times the number of layers read, N kept states per chunk, S their width, K soft tokens per
chunk, R soft tokens in all, L decoder tokens, D decoder embedding width.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.modeling.adapters import new_adapter
from e2llm.modeling.checkpoints.parts import PartSource, encoder_build_kwargs
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.encoder_attention import encoder_options, prepare_encoder
from e2llm.modeling.encoding import ChunkEncoding
from e2llm.modeling.placeholders import find_placeholders, soft_tokens_of_places


class CompositeModel(ChunkEncoding):
    """An encoder, an adapter and a decoder.

    `chunk_encoder` reads each chunk, `adapter` makes soft tokens of its token states, and these replace the
    embeddings of placeholders in the input of `language_model`, an unchanged causal LM.
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
        """Build the model from a configuration; use given parts, and initialise the others at random."""
        super().__init__(config)
        self.chunk_encoder = chunk_encoder or AutoModel.from_config(
            config.encoder_config, **encoder_build_kwargs(config.encoder_config)
        )
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        embeddings = self.language_model.get_input_embeddings()
        self.adapter = new_adapter(config, embeddings.embedding_dim)
        if config.chunk_token_id >= embeddings.num_embeddings:
            raise E2LLMError(
                f"chunk_token_id is {config.chunk_token_id}, but the decoder has only "
                f"{embeddings.num_embeddings} embedding rows"
            )
        bidirectional = config.encoder_attention == "bidirectional"
        prepare_encoder(self.chunk_encoder, bidirectional)
        self._encoder_options = encoder_options(self.chunk_encoder, bidirectional)
        takes = inspect.signature(self.language_model.forward).parameters
        self.takes_position_ids = "position_ids" in takes
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

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of the decoder's key-value cache for one position, without windows."""
        config = self.config.text_config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        itemsize = self.get_input_embeddings().weight.dtype.itemsize
        return int(2 * config.num_hidden_layers * heads * head_size * itemsize)

    def train(self, mode: bool = True) -> "CompositeModel":
        """Set training mode; a part that trains nothing stays in evaluation mode (no dropout there)."""
        super().train(mode)
        if mode:
            for part in (self.chunk_encoder, self.language_model):
                if not any(parameter.requires_grad for parameter in part.parameters()):
                    part.eval()
        return self

    def merge(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        chunk_input_ids: torch.Tensor | None = None,
        chunk_attention_mask: torch.Tensor | None = None,
        chunk_embeds: torch.Tensor | None = None,
        chunk_index: torch.Tensor | None = None,
        chunk_num_soft_tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed the input and replace the placeholders by soft tokens.

        Chunks, if any, are `chunk_input_ids` or `chunk_embeds` in the order of their placeholders.

        Args:
            input_ids: `[B, L]` decoder token ids with a placeholder for each soft token.
            attention_mask: `[B, L]`, or longer where a cache holds what came before; masked placeholders do
                not count.
            chunk_input_ids: `[C, T]` encoder token ids.
            chunk_attention_mask: `[C, T]`.
            chunk_embeds: `[R, D]`, soft tokens computed earlier, one for each placeholder.
            chunk_index: `[P]` row of the chunk at each of P places, so that a chunk that is at several
                (questions about one context, several rates) is read once; by default each row is used once.
            chunk_num_soft_tokens: `[P]` soft tokens at each place; by default all have equally many.

        Returns:
            `[B, L, D]` embeddings.

        Raises:
            E2LLMError: If placeholders and chunks do not match.
            ContextOverflowError: If the input is longer than the decoder's window.
        """
        self._check_window(input_ids.shape[1])
        is_placeholder = find_placeholders(input_ids, attention_mask, self.config.chunk_token_id)
        embeds: torch.Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_placeholder, 0))
        if chunk_input_ids is not None and chunk_embeds is not None:
            raise E2LLMError("give only one of chunk_input_ids and chunk_embeds")
        if chunk_embeds is not None:
            soft_tokens, total = chunk_embeds, int(is_placeholder.sum())
            if len(soft_tokens) != total:
                raise E2LLMError(
                    f"chunk_embeds has {len(soft_tokens)} soft tokens, but the input has {total} placeholders"
                )
        else:
            rows = chunk_input_ids if chunk_index is None else chunk_index
            counts = soft_tokens_of_places(
                is_placeholder, 0 if rows is None else len(rows), chunk_num_soft_tokens
            )
            if chunk_input_ids is None or not len(counts):
                return embeds + 0 * self._dummy_chunk(embeds) if self._all_take_part() else embeds
            if chunk_attention_mask is None:
                raise E2LLMError("chunk_attention_mask is missing; use the processor, which makes it")
            most = int(counts.max()) if self.adapter.dial == "soft_tokens" else None
            kept = self.encode_chunks(chunk_input_ids, chunk_attention_mask, most)
            num_tokens = chunk_attention_mask.ne(0).sum(dim=1)
            if chunk_index is not None:
                kept, num_tokens = kept[chunk_index], num_tokens[chunk_index]
            soft_tokens = self.soften(kept, num_tokens, counts)
        soft_tokens = soft_tokens.to(device=embeds.device, dtype=embeds.dtype)
        return embeds.masked_scatter(is_placeholder.unsqueeze(-1), soft_tokens)

    def _check_window(self, num_positions: int) -> None:
        window = getattr(self.config.text_config, "max_position_embeddings", None)
        if window is not None and num_positions > window:
            raise ContextOverflowError(
                f"the input has {num_positions} positions, but the decoder's window has {window}: "
                f"{num_positions - window} too many; use fewer soft tokens per chunk or a shorter context"
            )

    def _all_take_part(self) -> bool:
        """Return whether encoder and adapter must run even without chunks, for gradients or processes."""
        parts = (self.chunk_encoder, self.adapter)
        trains = self.training and any(item.requires_grad for part in parts for item in part.parameters())
        return trains or self.agree_on_passes is not None

    def _dummy_chunk(self, embeds: torch.Tensor) -> torch.Tensor:
        """Return the sum of one chunk's soft tokens, so that a batch without chunks uses all parameters."""
        ids = torch.zeros((1, 1), dtype=torch.long, device=embeds.device)
        one = torch.ones_like(ids)
        kept = self.encode_chunks(ids, one)
        count = one[0] * (kept.shape[1] if self.adapter.dial == "soft_tokens" else 1)
        return self.soften(kept, one[0], count).sum().to(embeds.dtype)
