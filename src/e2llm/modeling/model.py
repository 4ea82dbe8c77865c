"""The composite model: chunks through a text encoder and an adapter into a decoder LLM.

Shapes: B samples, C chunks of the whole batch, T encoder tokens per chunk, E encoder width, K soft tokens per chunk,
L decoder tokens, D decoder embedding width, V vocabulary, N labelled positions of the whole batch.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.generation.logits_process import SuppressTokensLogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.modeling import checkpoint as checkpoints
from e2llm.modeling.adapters import ADAPTERS
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.placeholder import choose_placeholder


@dataclass
class E2LLMOutput(CausalLMOutputWithPast):
    """Output of the decoder, with the loss of each labelled position.

    Attributes:
        token_losses: `[N]` float32 cross-entropy of each labelled position, row by row; None without labels.
    """

    token_losses: torch.Tensor | None = None


class E2LLMForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A decoder LLM that reads soft tokens in the place of text (arXiv 2409.06679).

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
        """Build from a configuration; parts that are given are used as they are, the others start at random."""
        super().__init__(config)
        self.chunk_encoder = chunk_encoder or AutoModel.from_config(
            config.encoder_config, **encoder_build_kwargs(config.encoder_config)
        )
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        self.adapter = self._new_adapter()
        rows = self.language_model.get_input_embeddings().num_embeddings
        if config.chunk_token_id >= rows:
            raise ValueError(f"chunk_token_id is {config.chunk_token_id}, the decoder has {rows} embedding rows")
        self._takes_position_ids = "position_ids" in inspect.signature(self.language_model.forward).parameters
        given = [part for part in (chunk_encoder, language_model) if part is not None]
        for part in given:
            for module in part.modules():
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.part_sources: dict[str, checkpoints.PartSource] = {}
        self.post_init()
        self.generation_config = self.language_model.generation_config

    def _new_adapter(self) -> nn.Module:
        config = self.config
        if config.adapter not in ADAPTERS:
            raise ValueError(f"adapter must be one of {', '.join(ADAPTERS)}, got {config.adapter!r}")
        return ADAPTERS[config.adapter](
            config.encoder_config.hidden_size,
            self.language_model.get_input_embeddings().embedding_dim,
            max_soft_tokens=config.max_soft_tokens,
            num_heads=config.adapter_num_heads,
            pooling=config.pooling,
            scale=config.soft_token_scale,
        )

    # --- building, loading, saving -------------------------------------------------------------------------------

    @classmethod
    def from_parts(
        cls,
        encoder: str | PreTrainedModel,
        decoder: str | PreTrainedModel,
        *,
        adapter: str = "attention",
        max_soft_tokens: int | None = None,
        adapter_num_heads: int = 4,
        pooling: str = "mean",
        decoder_tokenizer: Any = None,
        chunk_token_id: int | None = None,
        encoder_kwargs: dict[str, Any] | None = None,
        decoder_kwargs: dict[str, Any] | None = None,
    ) -> "E2LLMForConditionalGeneration":
        """Join a pretrained encoder and a pretrained decoder by a new adapter.

        Args:
            encoder: Hub id, local folder, or an instance of a natively implemented text encoder.
            decoder: The same for a causal LM.
            adapter: `attention` or `mlp`.
            max_soft_tokens: Soft tokens per chunk, 1 or more; by default 8 for `attention` and 1 for `mlp`.
            adapter_num_heads: Heads of the `attention` adapter; must divide the decoder's embedding width.
            pooling: `mean` or `cls`, for the `mlp` adapter.
            decoder_tokenizer: Tokenizer in which the placeholder is chosen; loaded from `decoder` when it is a name.
            chunk_token_id: The placeholder's id, to choose it yourself.
            encoder_kwargs: More arguments for the encoder's `from_pretrained` (`revision`, `dtype`, ...).
            decoder_kwargs: The same for the decoder (`quantization_config`, `device_map`, ...).

        Raises:
            E2LLMError: If no placeholder can be chosen, or a part is no native model.
        """
        encoder_model, encoder_source = checkpoints.load_part("encoder", encoder, encoder_kwargs)
        decoder_model, decoder_source = checkpoints.load_part("decoder", decoder, decoder_kwargs)
        if chunk_token_id is None:
            tokenizer = decoder_tokenizer or (
                checkpoints.load_tokenizer(decoder, decoder_kwargs) if isinstance(decoder, str) else None
            )
            if tokenizer is None:
                raise E2LLMError("the decoder is an instance: give decoder_tokenizer= or chunk_token_id= as well")
            chunk_token_id = choose_placeholder(tokenizer).id
        checkpoints.ensure_embedding_row(decoder_model, chunk_token_id)
        scale = embedding_scale(decoder_model)
        attention = {part: part.config._attn_implementation for part in (encoder_model, decoder_model)}
        config = E2LLMConfig(
            encoder_config=encoder_model.config,
            text_config=decoder_model.config,
            adapter=adapter,
            max_soft_tokens=max_soft_tokens or (1 if adapter == "mlp" else 8),
            adapter_num_heads=adapter_num_heads,
            pooling=pooling,  # type: ignore[arg-type]
            soft_token_scale=scale,
            chunk_token_id=chunk_token_id,
        )
        for part, implementation in attention.items():
            part.config._attn_implementation = implementation  # a new composite config resets those it is given
        model = cls(config, chunk_encoder=encoder_model, language_model=decoder_model)
        weight = decoder_model.get_input_embeddings().weight
        dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
        model.adapter.to(device=weight.device, dtype=dtype)
        model.part_sources = {"encoder": encoder_source, "decoder": decoder_source}
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model: a folder, a hub id, or the name of an embedded model (`mini`).

        Keyword arguments are those of transformers. Only safetensors files are read.

        Raises:
            CheckpointError: If a tensor is missing, damaged or of another shape, or a base model is not the one the
                checkpoint was made with.
        """
        return checkpoints.load_model(cls, super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *, self_contained: bool = False, **kwargs: Any) -> None:
        """Save the adapter, LoRA deltas and every part that has no unchanged base to load it from.

        Args:
            save_directory: The folder; it appears whole or stays as it was.
            self_contained: Merge LoRA and write all weights, so that the folder needs no base model.
            kwargs: `max_shard_size` (such as "5GB").
        """
        checkpoints.save_model(self, save_directory, self_contained=self_contained, **kwargs)

    def reset_adapter(self) -> None:
        """Start the adapter anew, at the scale that the decoder's token embeddings have now."""
        self.config.soft_token_scale = embedding_scale(self.language_model)
        weight = self.get_input_embeddings().weight
        self.adapter = self._new_adapter().to(device=weight.device, dtype=self.adapter.scale.dtype)
        self.initialize_weights()

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

    # --- transformers' habits ------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the decoder's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The decoder's output head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the decoder's output head."""
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """The decoder without its head."""
        return self.language_model.get_decoder()

    def train(self, mode: bool = True) -> "E2LLMForConditionalGeneration":
        """Set training mode; a part that trains nothing stays in evaluation mode (no dropout in a frozen reader)."""
        super().train(mode)
        if mode:
            for part in (self.chunk_encoder, self.language_model):
                if not any(parameter.requires_grad for parameter in part.parameters()):
                    part.eval()
        return self

    # --- the road ------------------------------------------------------------------------------------------------

    def encode_states(self, chunk_input_ids: torch.Tensor, chunk_attention_mask: torch.Tensor) -> torch.Tensor:
        """One pass of the encoder: `[C, T]` ids and mask to `[C, T, E]` token states."""
        return self.chunk_encoder(
            input_ids=chunk_input_ids, attention_mask=chunk_attention_mask
        ).last_hidden_state

    def adapt(self, states: torch.Tensor, mask: torch.Tensor, num_soft_tokens: int) -> torch.Tensor:
        """Token states `[C, T, E]` with their mask `[C, T]` to soft tokens `[C, K, D]`."""
        dtype = next(self.adapter.parameters()).dtype
        return self.adapter(states.to(dtype), mask, num_soft_tokens)

    def encode_chunks(
        self,
        chunk_input_ids: torch.Tensor,
        chunk_attention_mask: torch.Tensor,
        num_soft_tokens: int | None = None,
    ) -> torch.Tensor:
        """Make the soft tokens of chunks: the one place that encodes chunks.

        The chunks are read in passes of at most `config.encoder_batch_tokens` tokens, sorted by length so that little
        padding is read, and come back in their order. With gradients each pass runs under activation checkpointing:
        memory stays that of one pass, and the gradients equal the plain ones.

        Args:
            chunk_input_ids: `[C, T]` encoder token ids, right-padded.
            chunk_attention_mask: `[C, T]`, nonzero for real tokens; every chunk has at least one.
            num_soft_tokens: K, from 1 to `config.max_soft_tokens` (the default).

        Returns:
            `[C, K, D]` soft tokens in the adapter's dtype.
        """
        num_soft_tokens = self.check_num_soft_tokens(num_soft_tokens)
        trains_encoder = torch.is_grad_enabled() and any(p.requires_grad for p in self.chunk_encoder.parameters())

        def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(trains_encoder):
                states = self.encode_states(ids, mask)
            return self.adapt(states, mask, num_soft_tokens)

        lengths = chunk_attention_mask.ne(0).sum(dim=1)
        order = torch.argsort(lengths, descending=True, stable=True)
        sorted_lengths = lengths[order].tolist()
        pieces, start = [], 0
        while start < len(sorted_lengths):
            longest = max(1, int(sorted_lengths[start]))
            size = max(1, self.config.encoder_batch_tokens // longest)
            rows = order[start : start + size]
            ids, mask = chunk_input_ids[rows, :longest], chunk_attention_mask[rows, :longest]
            if trains_encoder and self.training:
                pieces.append(checkpoint(run, ids, mask, use_reentrant=False))
            else:
                pieces.append(run(ids, mask))
            start += size
        if not pieces:
            weight = self.get_input_embeddings().weight
            return weight.new_zeros((0, num_soft_tokens, self.get_input_embeddings().embedding_dim))
        return torch.cat(pieces)[torch.argsort(order)]

    def merge(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        chunk_input_ids: torch.Tensor | None = None,
        chunk_attention_mask: torch.Tensor | None = None,
        chunk_states: torch.Tensor | None = None,
        chunk_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed the input and put the soft tokens in the places of the placeholders.

        Give one of `chunk_input_ids`, `chunk_states` and `chunk_embeds`, or none for an input without chunks. Chunks
        stand in the order of their placeholders, over the whole batch.

        Args:
            input_ids: `[B, L]` decoder token ids with K placeholders per chunk.
            attention_mask: `[B, L]`; masked placeholders do not count.
            chunk_input_ids: `[C, T]` encoder token ids.
            chunk_attention_mask: `[C, T]`.
            chunk_states: `[C, T, E]` token states of the encoder, computed earlier.
            chunk_embeds: `[C, K', D]` soft tokens, computed earlier; the first K of the K' are used.

        Returns:
            `[B, L, D]` embeddings.

        Raises:
            ValueError: If placeholders and chunks do not match.
        """
        window = getattr(self.config.text_config, "max_position_embeddings", None)
        if window is not None and input_ids.shape[1] > window:
            raise ContextOverflowError(
                f"the input has {input_ids.shape[1]} positions, the decoder's window has {window}: "
                f"{input_ids.shape[1] - window} too many; use fewer soft tokens per chunk or a shorter context"
            )
        is_placeholder = input_ids == self.config.chunk_token_id
        if attention_mask is not None:
            is_placeholder = is_placeholder & attention_mask.bool()
        embeds = self.get_input_embeddings()(input_ids.masked_fill(is_placeholder, 0))
        if sum(item is not None for item in (chunk_input_ids, chunk_states, chunk_embeds)) > 1:
            raise ValueError("give only one of chunk_input_ids, chunk_states and chunk_embeds")
        given = next((item for item in (chunk_input_ids, chunk_states, chunk_embeds) if item is not None), None)
        num_chunks = 0 if given is None else len(given)
        num_placeholders = int(is_placeholder.sum())
        if num_chunks == 0:
            if num_placeholders:
                raise ValueError(f"the input has {num_placeholders} placeholders and no chunks")
            return embeds + 0 * self._dummy_chunk(embeds) if self.training else embeds
        num_soft_tokens, rest = divmod(num_placeholders, num_chunks)
        if rest or not num_soft_tokens:
            raise ValueError(f"{num_placeholders} placeholders do not divide among {num_chunks} chunks")
        self.check_num_soft_tokens(num_soft_tokens)
        if chunk_embeds is not None:
            if chunk_embeds.shape[1] < num_soft_tokens:
                raise ValueError(
                    f"chunk_embeds holds {chunk_embeds.shape[1]} soft tokens per chunk, the input asks for "
                    f"{num_soft_tokens}"
                )
            soft_tokens = chunk_embeds[:, :num_soft_tokens]
        else:
            if chunk_attention_mask is None:
                raise ValueError("chunk_attention_mask is missing; the processor makes it")
            if chunk_states is not None:
                soft_tokens = self.adapt(chunk_states, chunk_attention_mask, num_soft_tokens)
            else:
                soft_tokens = self.encode_chunks(chunk_input_ids, chunk_attention_mask, num_soft_tokens)
        soft_tokens = soft_tokens.to(device=embeds.device, dtype=embeds.dtype)
        return embeds.masked_scatter(is_placeholder.unsqueeze(-1), soft_tokens)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        chunk_input_ids: torch.Tensor | None = None,
        chunk_attention_mask: torch.Tensor | None = None,
        chunk_states: torch.Tensor | None = None,
        chunk_embeds: torch.Tensor | None = None,
        only_label_logits: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> E2LLMOutput:
        """Run the decoder over tokens and soft tokens.

        Args:
            input_ids: `[B, L]` decoder token ids with placeholders.
            attention_mask: `[B, L]`.
            inputs_embeds: `[B, L, D]`, in the place of `input_ids` and chunks.
            labels: `[B, L]` token ids to predict, -100 where there is none; shifted inside.
            chunk_input_ids: See `merge`.
            chunk_attention_mask: See `merge`.
            chunk_states: See `merge`.
            chunk_embeds: See `merge`.
            only_label_logits: With labels, compute logits at the N labelled positions only: `logits` is `[N, V]`.
            num_items_in_batch: Divisor of the loss in the place of N (gradient accumulation).
            kwargs: Passed to the decoder (`past_key_values`, `position_ids`, `use_cache`, ...).

        Returns:
            Loss (mean over labelled positions), logits `[B, L, V]`, the decoder's cache, and `token_losses`.
        """
        reject_unknown_chunk_arguments(kwargs)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.merge(
                input_ids, attention_mask, chunk_input_ids, chunk_attention_mask, chunk_states, chunk_embeds
            )
        if attention_mask is not None and kwargs.get("past_key_values") is None and self._takes_position_ids:
            kwargs.setdefault("position_ids", (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0))
        keep = None
        if labels is not None:
            keep = functional.pad(labels[:, 1:].ne(-100), (0, 1))
            targets = functional.pad(labels[:, 1:], (0, 1), value=-100)[keep]
            if only_label_logits:
                positions = keep.any(dim=0).nonzero().squeeze(1)
                kwargs["logits_to_keep"] = positions
                keep = keep[:, positions]
        outputs = self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        token_losses = loss = None
        if labels is not None and keep is not None:
            label_logits = outputs.logits[keep]
            token_losses = functional.cross_entropy(label_logits.float(), targets, reduction="none")
            loss = token_losses.sum() / (len(targets) if num_items_in_batch is None else num_items_in_batch)
        return E2LLMOutput(
            loss=loss,
            logits=label_logits if only_label_logits and labels is not None else outputs.logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            token_losses=token_losses,
        )

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Generate as any transformers model does; the chunks are merged once, before the first step.

        Accepts what the processor returns and every option of transformers' `generate` (beams, sampling, several
        return sequences, streamers, ...). Returns `[B * sequences, L + new]` ids, the prompt with its placeholders
        first. The placeholder itself is never generated.

        Raises:
            ValueError: For `prefill_chunk_size`, which loses soft tokens, and for unknown chunk arguments.
        """
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            raise ValueError("generate needs input_ids; the processor makes them")
        self.language_model.generation_config = self.generation_config
        generation_config = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("prefill_chunk_size") or getattr(generation_config, "prefill_chunk_size", None):
            raise ValueError("prefill_chunk_size does not work with soft tokens; leave it out")
        names = ("chunk_input_ids", "chunk_attention_mask", "chunk_states", "chunk_embeds")
        chunks = {name: kwargs.pop(name, None) for name in names}
        reject_unknown_chunk_arguments(kwargs)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs_embeds = kwargs.pop("inputs_embeds", None)
        if inputs_embeds is None:
            was_training = self.training
            self.eval()
            try:
                inputs_embeds = self.merge(input_ids, attention_mask, **chunks)
            finally:
                self.train(was_training)
        suppress = SuppressTokensLogitsProcessor([self.config.chunk_token_id], device=input_ids.device)
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), suppress])
        return self.language_model.generate(
            input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """The decoder's own preparation; `generate` runs on the decoder."""
        return self.language_model.prepare_inputs_for_generation(*args, **kwargs)

    # --- small checks --------------------------------------------------------------------------------------------

    def check_num_soft_tokens(self, num_soft_tokens: int | None) -> int:
        """Return K (by default `config.max_soft_tokens`), or raise `E2LLMError` if it is out of range."""
        limit = self.config.max_soft_tokens
        if num_soft_tokens is None:
            return int(limit)
        if not 1 <= num_soft_tokens <= limit:
            raise E2LLMError(f"soft tokens per chunk must be from 1 to {limit}, got {num_soft_tokens}")
        return num_soft_tokens

    def _dummy_chunk(self, embeds: torch.Tensor) -> torch.Tensor:
        """Sum of the soft tokens of a one-token chunk, so that a batch without chunks uses every parameter too."""
        ids = torch.zeros((1, 1), dtype=torch.long, device=embeds.device)
        return self.encode_chunks(ids, torch.ones_like(ids)).sum().to(embeds.dtype)


def reject_unknown_chunk_arguments(kwargs: dict[str, Any]) -> None:
    """Raise `ValueError` for arguments named `chunk...` that nobody reads: they would be dropped in silence."""
    unknown = [name for name in kwargs if name.startswith("chunk")]
    if unknown:
        raise ValueError(
            f"unknown argument(s) {', '.join(unknown)}; known: chunk_input_ids, chunk_attention_mask, "
            "chunk_states, chunk_embeds"
        )


@torch.no_grad()
def embedding_scale(decoder: PreTrainedModel) -> float:
    """Root mean square of a decoder's token embeddings, over at most about 512 tokens."""
    embeddings = decoder.get_input_embeddings()
    sample = torch.arange(0, embeddings.num_embeddings, max(1, embeddings.num_embeddings // 512))
    return float(embeddings(sample.to(embeddings.weight.device)).float().pow(2).mean().sqrt())


def encoder_build_kwargs(config: Any) -> dict[str, Any]:
    """Arguments that leave an encoder's unused pooler out, for the classes that take them (BERT yes, ModernBERT no)."""
    model_class = AutoModel._model_mapping[type(config)]
    if isinstance(model_class, (list, tuple)):
        model_class = model_class[0]
    takes = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def register() -> None:
    """Make transformers' Auto classes know the model."""
    AutoConfig.register("e2llm", E2LLMConfig, exist_ok=True)
    AutoModelForCausalLM.register(E2LLMConfig, E2LLMForConditionalGeneration, exist_ok=True)
