"""Add LoRA to the encoder and the decoder, set which parts train, and report it.

The layers are injected into each part through transformers' peft integration, so the model keeps its class; a
part's deltas are saved in peft's own format and can be loaded by peft onto that part's base model alone.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.checkpoints.quantization import is_quantized, num_values
from e2llm.modeling.checkpoints.reporting import listing
from e2llm.modeling.configuration import PART_MODULES

ADAPTER_NAME = "default"
Mode = Literal["frozen", "lora", "full"]

_BERT_LIKE = ("query", "key", "value")
_LLAMA_LIKE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT_LIKE),
    "distilbert": ("q_lin", "k_lin", "v_lin"),
    "mpnet": ("attn.q", "attn.k", "attn.v"),
    "modernbert": ("Wqkv",),
    "nomic_bert": ("q_proj", "k_proj", "v_proj"),
    "deberta-v2": ("query_proj", "key_proj", "value_proj"),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2"), _LLAMA_LIKE),
    **dict.fromkeys(("gemma3_text", "smollm3", "olmo2", "granite"), _LLAMA_LIKE),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


@dataclass(frozen=True)
class LoraSettings:
    """Settings of one part's LoRA.

    Attributes:
        rank: Rank of the deltas, 1 or more (paper: encoder 16-32, decoder 8-16).
        alpha: Scale; the deltas are multiplied by alpha / rank.
        dropout: Fraction of inputs dropped in training, from 0 to below 1.
        target_modules: Ends of module names to adapt; by default those of `LORA_TARGETS` for the model's
            type.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rank < 1:
            raise E2LLMError(f"LoRA rank must be 1 or more, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise E2LLMError(f"LoRA dropout must be from 0 to below 1, got {self.dropout}")


@dataclass(frozen=True)
class TrainableReport:
    """Numbers of parameters per part: `{part: (trainable, all)}` for encoder, adapter and decoder."""

    counts: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        lines = [
            f"{part:>8}: {trainable:>13,} of {total:>13,} parameters train ({trainable / max(total, 1):.2%})"
            for part, (trainable, total) in self.counts.items()
        ]
        return "\n".join(lines)


def set_modes(
    model: Any,
    *,
    encoder: Mode = "frozen",
    decoder: Mode = "frozen",
    adapter: Literal["frozen", "full"] = "full",
    encoder_lora: LoraSettings | None = None,
    decoder_lora: LoraSettings | None = None,
) -> TrainableReport:
    """Set how each part trains: `frozen`, `lora` or `full`.

    A part in `full` has no unchanged base from then on and is saved with the checkpoint. Under `lora`, layers
    that are attached already train further.

    Args:
        model: The composite model.
        encoder: What of the encoder trains.
        decoder: What of the decoder trains.
        adapter: Whether the adapter trains.
        encoder_lora: Settings of LoRA layers on the encoder; layers that are attached already must have them.
        decoder_lora: The same for the decoder.

    Returns:
        The numbers of parameters that train.

    Raises:
        E2LLMError: If no target modules are known for a part's model type, one is not found, or LoRA layers
            that are attached already have other settings.
    """
    if adapter not in ("frozen", "full"):
        raise E2LLMError(f"adapter mode must be frozen or full, got {adapter!r}")
    for part, mode, settings in (("encoder", encoder, encoder_lora), ("decoder", decoder, decoder_lora)):
        if mode not in ("frozen", "lora", "full"):
            raise E2LLMError(f"{part} mode must be frozen, lora or full, got {mode!r}")
        module = getattr(model, PART_MODULES[part])
        if mode == "full":
            _check_full(part, module)
            model.part_sources.pop(part, None)
        elif mode == "lora" and has_lora(module):
            _check_same_settings(part, module, settings)
        elif mode == "lora":
            add_lora(module, settings or LoraSettings())
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(mode == "full" or (mode == "lora" and "lora_" in name))
    for parameter in model.adapter.parameters():
        parameter.requires_grad_(adapter == "full")
    return report_trainable(model)


def _check_full(part: str, module: Any) -> None:
    """Raise `E2LLMError` unless all weights of a part can train."""
    if has_lora(module):
        raise E2LLMError(f"the {part} has LoRA layers; merge them with merge_lora(model) before mode 'full'")
    if is_quantized(module):
        raise E2LLMError(
            f"the {part} is quantized, and 4-bit weights cannot train; use mode 'lora' or 'frozen', or "
            "load it with quantization_config=None"
        )


def _check_same_settings(part: str, module: Any, settings: LoraSettings | None) -> None:
    """Raise `E2LLMError` if attached LoRA layers have another rank or alpha than requested."""
    config = module.peft_config[ADAPTER_NAME]
    if settings is not None and (config.r, config.lora_alpha) != (settings.rank, settings.alpha):
        raise E2LLMError(
            f"the {part} has LoRA layers of rank {config.r} and alpha {config.lora_alpha}, but rank "
            f"{settings.rank} and alpha {settings.alpha} were requested; use the same, or merge them first"
        )


def add_lora(part: Any, settings: LoraSettings) -> None:
    """Inject LoRA layers into an encoder or a decoder."""
    from peft import LoraConfig

    kind = part.config.model_type
    targets = settings.target_modules or LORA_TARGETS.get(kind)
    if not targets:
        raise E2LLMError(
            f"no LoRA target modules are known for model type {kind!r}; give target_modules "
            f"(known types: {', '.join(sorted(LORA_TARGETS))})"
        )
    pattern = r"(.*\.)?(" + "|".join(re.escape(target) for target in targets) + ")"
    hit = [name for name, _ in part.named_modules() if re.fullmatch(pattern, name)]
    lost = [target for target in targets if not any(name.endswith(target) for name in hit)]
    if lost:
        raise E2LLMError(
            f"this {kind!r} model has no module named {' or '.join(lost)}; correct target_modules"
        )
    ends = (part.get_input_embeddings(), part.get_output_embeddings())
    if unfit := [name for name in hit if part.get_submodule(name) in ends]:
        raise E2LLMError(
            f"LoRA on {', '.join(unfit)} is not supported: embeddings and output heads may share one weight"
        )
    is_conv = any(type(module).__name__ == "Conv1D" for module in part.modules())
    part.add_adapter(
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type, unused-ignore]
            lora_dropout=settings.dropout,
            target_modules=pattern,
            fan_in_fan_out=is_conv,
        ),
        adapter_name=ADAPTER_NAME,
    )


def has_lora(module: nn.Module) -> bool:
    """Return whether any LoRA layer is attached."""
    return any("lora_" in name for name, _ in module.named_parameters())


def report_trainable(model: Any) -> TrainableReport:
    """Count the parameters and the trainable parameters of each part."""
    counts = {}
    for part, name in (("encoder", "chunk_encoder"), ("adapter", "adapter"), ("decoder", "language_model")):
        parameters = list(getattr(model, name).parameters())
        counts[part] = (
            sum(num_values(p) for p in parameters if p.requires_grad),
            sum(num_values(p) for p in parameters),
        )
    return TrainableReport(counts)


def lora_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Return the layers with LoRA deltas by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, layer


def merge_lora(model: Any) -> Any:
    """Add the deltas to the weights in place, and remove the LoRA layers; the parts lose their bases."""
    for part, attribute in PART_MODULES.items():
        module = getattr(model, attribute)
        if not has_lora(module):
            continue
        for name, layer in list(lora_layers(module)):
            check_mergeable(name, layer)
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
        module._hf_peft_config_loaded = False
        del module.peft_config
        model.part_sources.pop(part, None)
    return model


def base_state_dict(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a model's tensors without deltas, under their names without LoRA."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if "lora_" not in name
    }


def merged_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's tensors with the deltas added, under their names without LoRA; keep the model."""
    state = base_state_dict(model.state_dict())
    for name, layer in lora_layers(model):
        check_mergeable(name, layer)
        key = f"{name}.weight"
        delta = layer.get_delta_weight(ADAPTER_NAME)
        state[key] = (state[key].to(delta.dtype) + delta).to(state[key].dtype)
    return state


def check_mergeable(name: str, layer: Any) -> None:
    """Raise `E2LLMError` for a quantized layer: adding a delta to rounded weights would round it away."""
    if not layer.get_base_layer().weight.is_floating_point():
        raise E2LLMError(
            f"{name} is quantized; load the model with quantization_config=None to merge its LoRA"
        )


def save_lora(model: Any, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Save each part's deltas and configuration in peft's format, in `folder/encoder` and `folder/decoder`.

    Args:
        model: The composite model.
        folder: Where to.
        tensors: The composite model's tensors by their names.
    """
    for part, attribute in PART_MODULES.items():
        module = getattr(model, attribute)
        if not has_lora(module):
            continue
        target = folder / part
        target.mkdir(parents=True)
        state = {
            _peft_name(name.removeprefix(f"{attribute}.")): tensor.detach().cpu().contiguous()
            for name, tensor in tensors.items()
            if name.startswith(f"{attribute}.") and "lora_" in name and f".{ADAPTER_NAME}." in name
        }
        save_file(state, target / "adapter_model.safetensors", metadata={"format": "pt"})
        config = module.peft_config[ADAPTER_NAME].to_dict()
        config["base_model_name_or_path"] = None
        config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        (target / "adapter_config.json").write_text(
            json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8"
        )


def load_lora(model: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Attach saved deltas in a dtype, by default the stored one.

    Raises:
        CheckpointError: If one is missing, unknown or of another shape.
    """
    from peft import LoraConfig

    for part, attribute in PART_MODULES.items():
        source = folder / part
        if not source.is_dir():
            continue
        module = getattr(model, attribute)
        module.add_adapter(LoraConfig.from_pretrained(str(source)), adapter_name=ADAPTER_NAME)
        state = load_file(source / "adapter_model.safetensors")
        own = {_peft_name(name): p for name, p in module.named_parameters() if "lora_" in name}
        wrong = set(own) ^ set(state)
        wrong |= {key for key in set(own) & set(state) if own[key].shape != state[key].shape}
        if wrong:
            raise CheckpointError(f"{source}: LoRA tensors do not match the model: {listing(list(wrong))}")
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.data = parameter.data.to(dtype or state[key].dtype)
                parameter.copy_(state[key])


def _peft_name(name: str) -> str:
    return f"base_model.model.{file_name(name)}"


def file_name(parameter_name: str) -> str:
    """Return the name of a LoRA parameter in peft's files, which lacks the adapter's name."""
    return parameter_name.replace(f".{ADAPTER_NAME}", "")
