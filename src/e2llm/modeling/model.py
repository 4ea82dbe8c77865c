"""The model class: join, load, save, train, generate.

Shapes: B samples, L decoder tokens, D decoder embedding width, V vocabulary, N labelled positions.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.generation.logits_process import SuppressTokensLogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints.load import freeze_parts, load_model
from e2llm.modeling.checkpoints.parts import ensure_embedding_row, load_part, load_tokenizer
from e2llm.modeling.checkpoints.save import save_model
from e2llm.modeling.composite import CompositeModel
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.encoder_attention import check_bidirectional
from e2llm.modeling.placeholders import (
    CHUNK_ARGUMENTS,
    check_packing,
    choose_placeholder,
    positions_of,
    reject_unknown_chunk_arguments,
)
from e2llm.modeling.rates import check_finest_rate
from e2llm.prompts import IGNORE_INDEX, build_template


@dataclass
class E2LLMOutput(CausalLMOutputWithPast):  # type: ignore[misc]
    """Output of the decoder, with the loss of each labelled position.

    Attributes:
        token_losses: `[N]` float32 cross-entropy of each labelled position, row by row; None without labels.
    """

    token_losses: torch.Tensor | None = None


class E2LLMForConditionalGeneration(CompositeModel, GenerationMixin):  # type: ignore[misc]
    """A decoder LLM that reads soft tokens instead of text (arXiv 2409.06679)."""

    @classmethod
    def from_parts(
        cls,
        encoder: str | PreTrainedModel,
        decoder: str | PreTrainedModel,
        *,
        adapter: str = "pooling",
        encoder_layers: Sequence[int] | None = None,
        encoder_attention: str = "as_trained",
        finest_rate: int = 2,
        max_soft_tokens: int | None = None,
        adapter_num_heads: int = 4,
        pooling: str = "mean",
        decoder_tokenizer: Any = None,
        chunk_token_id: int | None = None,
        encoder_kwargs: dict[str, Any] | None = None,
        decoder_kwargs: dict[str, Any] | None = None,
    ) -> "E2LLMForConditionalGeneration":
        """Join a pretrained encoder and a pretrained decoder by a new adapter.

        The encoder and the decoder are frozen and the adapter trains, until `e2llm.modeling.lora.set_modes`
        says otherwise: a model saved now refers to parts given by name and copies none of their weights.
        Instances are taken over as they are, without the encoder's unused pooler.

        Args:
            encoder: Hub id, local folder, or an instance of a natively implemented text encoder.
            decoder: The same for a causal LM.
            adapter: `pooling`, `attention` or `mlp`.
            encoder_layers: Layers that the adapter reads, 0 for the embeddings; by default the first, the
                middle and the last for `pooling`, and the last alone for the others.
            encoder_attention: `as_trained`, or `bidirectional` for a causal encoder that is to see later
                tokens, too.
            finest_rate: Encoder tokens per state that `pooling` keeps, a power of two.
            max_soft_tokens: Soft tokens per chunk of `attention` (by default 8) and `mlp` (1).
            adapter_num_heads: Heads of the `attention` adapter; must divide the decoder's embedding width.
            pooling: `mean` or `cls`, for the `mlp` adapter.
            decoder_tokenizer: Tokenizer in which the placeholder is chosen (and added, if it has none to
                spare); loaded from `decoder` when that is a name.
            chunk_token_id: The placeholder's id, to choose it yourself.
            encoder_kwargs: More arguments for the encoder's `from_pretrained` (`revision`, `dtype`, ...).
            decoder_kwargs: The same for the decoder (`quantization_config`, `device_map`, ...).

        Returns:
            The model in evaluation mode.

        Raises:
            E2LLMError: If no placeholder can be chosen, or a part is no native model of its kind.
            CheckpointError: If a part cannot be loaded, or is incomplete.
        """
        encoder_model, encoder_source = load_part("encoder", encoder, encoder_kwargs)
        decoder_model, decoder_source = load_part("decoder", decoder, decoder_kwargs)
        if decoder_tokenizer is None and isinstance(decoder, str | os.PathLike):
            decoder_tokenizer = load_tokenizer(str(decoder), decoder_kwargs)
        if chunk_token_id is None:
            if decoder_tokenizer is None:
                raise E2LLMError(
                    "the decoder is a loaded model; give decoder_tokenizer= or chunk_token_id= too"
                )
            chunk_token_id = choose_placeholder(decoder_tokenizer).id
        ensure_embedding_row(decoder_model, chunk_token_id)
        if encoder_layers is None and adapter == "pooling":
            last = encoder_model.config.num_hidden_layers
            encoder_layers = sorted({0, last // 2, last})
        model = cls._join(
            encoder_model,
            decoder_model,
            adapter=adapter,
            encoder_layers=None if encoder_layers is None else list(encoder_layers),
            encoder_attention=encoder_attention,
            finest_rate=finest_rate,
            max_soft_tokens=(1 if adapter == "mlp" else 8) if max_soft_tokens is None else max_soft_tokens,
            adapter_num_heads=adapter_num_heads,
            pooling=pooling,
            chunk_token_id=chunk_token_id,
        )
        model.part_sources = {"encoder": encoder_source, "decoder": decoder_source}
        if decoder_tokenizer is not None:
            stop_after_answer(model.generation_config, decoder_tokenizer)
        return model

    @classmethod
    def _join(
        cls, encoder: PreTrainedModel, decoder: PreTrainedModel, **settings: Any
    ) -> "E2LLMForConditionalGeneration":
        """Join parts by a new adapter on the decoder's device, everything but the adapter frozen."""
        attention = {part: part.config._attn_implementation for part in (encoder, decoder)}
        config = E2LLMConfig(
            encoder_config=encoder.config,
            text_config=decoder.config,
            soft_token_scale=embedding_scale(decoder),
            **settings,
        )
        for part, implementation in attention.items():
            # a new composite config resets the configs that it is given
            part.config._attn_implementation = implementation
        if config.encoder_attention == "bidirectional":
            check_bidirectional(encoder)
        model = cls(config, chunk_encoder=encoder, language_model=decoder)
        weight = decoder.get_input_embeddings().weight
        dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
        model.adapter.to(device=weight.device, dtype=dtype)
        freeze_parts(model)
        model.eval()
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model: a folder, a hub id, or the name of an embedded model (`smol`).

        Keyword arguments are those of transformers, and `encoder=` and `decoder=`: where a base model that
        the checkpoint refers to is now. Only safetensors files are read. The parts come back frozen, the
        adapter and LoRA deltas trainable.

        Raises:
            CheckpointError: If a tensor is missing, damaged or of another shape, or a base model is not the
                one the checkpoint was made with.
        """
        plain_loader = super().from_pretrained
        return load_model(cls, plain_loader, pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *, self_contained: bool = False, **kwargs: Any) -> None:
        """Save the adapter, LoRA deltas and every part that has no unchanged base to load it from.

        Args:
            save_directory: The folder; it appears whole or stays as it was.
            self_contained: Merge LoRA and write all weights, so that the folder needs no base model.
            kwargs: `max_shard_size` (such as "5GB"), `state_dict` and `is_main_process`, as in transformers.

        Raises:
            E2LLMError: For arguments of transformers' `save_pretrained` that have no effect here.
        """
        save_model(self, save_directory, self_contained=self_contained, **kwargs)

    @property
    def is_trained(self) -> bool:
        """Whether the decoder can read soft tokens: a new `pooling` adapter has to be trained first."""
        return self.adapter.dial != "rate" or bool(self.config.trained_on)

    def set_finest_rate(self, rate: int) -> None:
        """Keep one state per `rate` encoder tokens of every chunk read from now on.

        Args:
            rate: A power of two. Twice the rate takes half the memory and disk; finer rates are then
                unavailable, and contexts kept at another finest rate have to be read again.

        Raises:
            E2LLMError: If it is no power of two, or the model's dial is not the rate.
        """
        if self.adapter.dial != "rate":
            raise E2LLMError(
                f"finest_rate={rate!r} is for models that have a rate, but the {self.config.adapter!r} "
                "adapter of this model has none; leave finest_rate out"
            )
        self.config.finest_rate = check_finest_rate(rate)
        self.adapter.finest_rate = rate  # type: ignore[assignment]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        chunk_input_ids: torch.Tensor | None = None,
        chunk_attention_mask: torch.Tensor | None = None,
        chunk_embeds: torch.Tensor | None = None,
        chunk_index: torch.Tensor | None = None,
        chunk_num_soft_tokens: torch.Tensor | None = None,
        only_label_logits: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> E2LLMOutput:
        """Run the decoder over tokens and soft tokens.

        Several samples may be packed into one row: `position_ids` that start again at 0, no attention mask.

        Args:
            input_ids: `[B, L]` decoder token ids with placeholders.
            attention_mask: `[B, L]`.
            inputs_embeds: `[B, L, D]`, instead of `input_ids` and chunks.
            labels: `[B, L]` token ids to predict, -100 elsewhere; shifted inside.
            chunk_input_ids: See `merge`.
            chunk_attention_mask: See `merge`.
            chunk_embeds: See `merge`.
            chunk_index: See `merge`.
            chunk_num_soft_tokens: See `merge`.
            only_label_logits: With labels, logits at the labelled positions only: `logits` is `[N, V]`.
            num_items_in_batch: Divisor of the loss instead of N (gradient accumulation).
            kwargs: Passed to the decoder (`past_key_values`, `position_ids`, `use_cache`, ...).

        Returns:
            Loss (mean over labelled positions), logits `[B, L, V]`, the decoder's cache, and `token_losses`.

        Raises:
            E2LLMError: For an unknown chunk argument, chunks that do not match the placeholders, or packed
                samples that would see each other.
        """
        reject_unknown_chunk_arguments(kwargs)
        chunks = (chunk_input_ids, chunk_attention_mask, chunk_embeds, chunk_index, chunk_num_soft_tokens)
        if inputs_embeds is None:
            if input_ids is None:
                raise E2LLMError("give input_ids or inputs_embeds")
            inputs_embeds = self.merge(input_ids, attention_mask, *chunks)
        elif any(item is not None for item in chunks):
            raise E2LLMError("inputs_embeds replace input_ids and chunks: give one or the other")
        if labels is not None:
            kwargs.setdefault("use_cache", False)
        if kwargs.get("position_ids") is not None:
            caches = kwargs.get("use_cache", getattr(self.config.text_config, "use_cache", True))
            decoder_type = self.config.text_config.model_type
            attention = self.language_model.config._attn_implementation
            check_packing(kwargs["position_ids"], attention_mask, caches, decoder_type, attention)
        elif attention_mask is not None and attention_mask.dim() == 2 and self.takes_position_ids:
            kwargs["position_ids"] = positions_of(attention_mask, inputs_embeds.shape[1])
        keep = places = None
        if labels is not None:
            keep = functional.pad(labels[:, 1:].ne(IGNORE_INDEX), (0, 1))
            if only_label_logits and self.takes_logits_to_keep:
                places = keep.any(dim=0).nonzero().squeeze(1)
                kwargs["logits_to_keep"] = places
        outputs = self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        output = E2LLMOutput(
            logits=outputs.logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )
        if keep is not None:
            logits = outputs.logits[keep if places is None else keep[:, places]]
            self._add_losses(output, logits, labels, keep, num_items_in_batch)
            output.logits = logits if only_label_logits else outputs.logits
        return output

    @staticmethod
    def _add_losses(
        output: E2LLMOutput, logits: torch.Tensor, labels: Any, keep: torch.Tensor, divisor: Any
    ) -> None:
        """Add the loss of each labelled position, from its logits `[N, V]`, and their sum by the divisor."""
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)[keep]
        output.token_losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        output.loss = output.token_losses.sum() / (max(1, len(targets)) if divisor is None else divisor)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Generate as any transformers model does; the chunks are merged once, before the first step.

        Accepts what the processor returns and every option of transformers' `generate` (beams, sampling,
        several return sequences, streamers, ...). Returns `[B * sequences, L + new]` ids, the prompt with its
        placeholders first. The placeholder itself is never generated. Runs in evaluation mode.

        Raises:
            E2LLMError: For `prefill_chunk_size` and assisted decoding, which lose soft tokens, and for
                unknown chunk arguments.
        """
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            raise E2LLMError("input_ids are missing; use the processor, which makes them")
        self.language_model.generation_config = self.generation_config
        reject_lossy_generation(kwargs, kwargs.get("generation_config") or self.generation_config)
        chunks = {name: kwargs.pop(name, None) for name in CHUNK_ARGUMENTS}
        reject_unknown_chunk_arguments(kwargs)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs_embeds = kwargs.pop("inputs_embeds", None)
        if inputs_embeds is not None and any(item is not None for item in chunks.values()):
            raise E2LLMError("inputs_embeds replace input_ids and chunks: give one or the other")
        suppress = SuppressTokensLogitsProcessor([self.config.chunk_token_id], device=input_ids.device)
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), suppress])
        if kwargs.get("pad_token_id") is None and self.generation_config.pad_token_id is None:
            kwargs["pad_token_id"] = self._first_end(kwargs)
        was_training = self.training
        agree, self.agree_on_passes = self.agree_on_passes, None  # one process may generate by itself
        self.eval()
        try:
            if inputs_embeds is None:
                inputs_embeds = self.merge(input_ids, attention_mask, **chunks)
            return self.language_model.generate(
                input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
            )
        finally:
            self.agree_on_passes = agree
            self.train(was_training)

    def _first_end(self, kwargs: dict[str, Any]) -> int | None:
        """What a finished row of a batch is filled up with where the decoder has no padding token."""
        ends = kwargs.get("eos_token_id", self.generation_config.eos_token_id)
        first: int | None = ends[0] if isinstance(ends, list | tuple) else ends
        return first

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """The decoder's own preparation; `generate` runs on the decoder."""
        return self.language_model.prepare_inputs_for_generation(*args, **kwargs)


@torch.no_grad()
def embedding_scale(decoder: PreTrainedModel) -> float:
    """Return the root mean square of a decoder's token embeddings, over at most about 512 tokens."""
    embeddings = decoder.get_input_embeddings()
    sample = torch.arange(0, embeddings.num_embeddings, max(1, embeddings.num_embeddings // 512))
    return float(embeddings(sample.to(embeddings.weight.device)).float().pow(2).mean().sqrt())


def stop_after_answer(generation_config: Any, tokenizer: Any) -> None:
    """Add the chat template's end token to those that end generation; base models often lack it."""
    ends = generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    last = build_template(tokenizer).after_answer[:1]
    if last and last[0] not in ends and last[0] in tokenizer.added_tokens_decoder:
        generation_config.eos_token_id = [*ends, *last]


def reject_lossy_generation(kwargs: dict[str, Any], generation_config: Any) -> None:
    """Raise `E2LLMError` for options of `generate` that would read placeholders as text."""
    for name in ("prefill_chunk_size", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"):
        if kwargs.get(name) or getattr(generation_config, name, None):
            raise E2LLMError(f"{name} does not work with soft tokens; leave it out")
    if kwargs.get("assistant_model") is not None:
        raise E2LLMError("assistant_model does not work with soft tokens, which it cannot read; leave it out")


def register() -> None:
    """Make transformers' Auto classes know the model."""
    AutoConfig.register("e2llm", E2LLMConfig, exist_ok=True)
    AutoModelForCausalLM.register(E2LLMConfig, E2LLMForConditionalGeneration, exist_ok=True)
