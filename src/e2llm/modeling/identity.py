"""Identify models by a hash of everything that their states or answers depend on."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from e2llm.modeling.composite import CompositeModel
from e2llm.modeling.processor import E2LLMProcessor

# Of a configuration: where it came from, and the precision, which the weights themselves tell.
_ORIGINS = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"})


def reading_fingerprint(model: CompositeModel, processor: E2LLMProcessor) -> str:
    """Return the SHA-256 over everything that decides what reading keeps of a text.

    That is the encoder (its configuration, layers read, attention, weights with LoRA deltas and precision and
    its tokenizer), the longest chunk, and the part of the adapter that reading uses: the projection and the
    finest rate of `pooling`, all of `attention` and `mlp`. The decoder and the head of `pooling` run when a
    question is asked, so they do not count. Neither does the device: two devices differ by rounding only, and
    one may use what the other read (chosen here: docs/inference.md).
    """
    digest = hashlib.sha256()
    config, adapter = model.config, model.adapter
    settings: dict[str, Any] = {
        "adapter": config.adapter,
        "encoder": _plain(config.encoder_config.to_dict()),
        "encoder_layers": config.encoder_layers,
        "encoder_attention": config.encoder_attention,
        "max_chunk_tokens": processor.max_chunk_tokens,
        "tokenizer": _tokenizing(processor.encoder_tokenizer),
    }
    if adapter.dial == "rate":
        settings["finest_rate"] = config.finest_rate
    else:
        names = ("max_soft_tokens", "adapter_num_heads", "pooling")
        settings.update((name, getattr(config, name)) for name in names)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    _add_weights(digest, model.chunk_encoder)
    _add_tensors(digest, adapter.reading_state())
    return digest.hexdigest()


def model_fingerprint(model: CompositeModel, processor: E2LLMProcessor) -> str:
    """Return a SHA-256 over everything that a model's answers depend on, wherever it was loaded from.

    That is all of `reading_fingerprint`, the rest of the adapter, which rates it was trained on,
    and the decoder: its configuration, weights (LoRA deltas included) with their precision,
    tokenizer, template and the defaults of generation.
    """
    settings = {
        "reading": reading_fingerprint(model, processor),
        "rates": model.config.trained_on,
        "decoder": _plain(model.config.text_config.to_dict()),
        "generation": _plain(model.generation_config.to_dict()),
        "tokenizer": _tokenizing(processor.tokenizer),
        "template": repr(processor.template),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    _add_weights(digest, model.adapter)
    _add_weights(digest, model.language_model)
    return digest.hexdigest()


def _tokenizing(tokenizer: Any) -> dict[str, Any]:
    """Return a tokenizer's settings without padding and truncation, which every call sets."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in content.items() if key not in ("padding", "truncation")}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the entries that say where it came from."""
    return {key: value for key, value in config.items() if key not in _ORIGINS}


def _add_weights(digest: "hashlib._Hash", part: nn.Module) -> None:
    """Add a part's tensors with names, precision and shapes, and the scales and states of LoRA deltas."""
    for name, module in part.named_modules():
        if getattr(module, "lora_A", None) is not None:
            state = (module.disable_adapters, module.active_adapters, module.merged_adapters)
            digest.update(f"{name} {sorted(module.scaling.items())} {state}".encode())
    _add_tensors(digest, part.state_dict())


def _add_tensors(digest: "hashlib._Hash", tensors: dict[str, torch.Tensor]) -> None:
    """Add tensors with their names, precision and shapes."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        content: Any = flat.view(torch.uint8).numpy()
        digest.update(memoryview(content))


def weight_versions(model: CompositeModel) -> tuple[Any, ...]:
    """Return marks that change when a weight of the encoder or the adapter, or the finest rate, changes."""
    tensors = [*model.chunk_encoder.parameters(), *model.adapter.parameters()]
    marks = ((item.data_ptr(), 0 if item.is_inference() else item._version) for item in tensors)
    deltas = (item for item in model.chunk_encoder.modules() if getattr(item, "lora_A", None) is not None)
    active = ((item.disable_adapters, tuple(item.active_adapters)) for item in deltas)
    return (model.config.finest_rate, *marks, *active)
