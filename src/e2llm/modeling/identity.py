"""Which model made some soft tokens: a digest of all that they depend on."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from e2llm.modeling.composite import CompositeModel
from e2llm.modeling.processor import E2LLMProcessor

_ORIGINS = frozenset({"_name_or_path", "transformers_version", "architectures"})


def reading_fingerprint(model: CompositeModel, processor: E2LLMProcessor) -> str:
    """SHA-256 over what the soft tokens of a text depend on.

    These are the weights of the encoder (LoRA deltas included) and the adapter with their precision, the
    encoder's tokenizer, the longest chunk, the adapter's kind and the pooling. The decoder is not among them:
    the soft tokens are the same with any. The device is not either: the results of two devices differ by
    rounding only, and one may use what the other read (chosen here: docs/inference.md).
    """
    digest = hashlib.sha256()
    settings = {
        "adapter": model.config.adapter,
        "max_soft_tokens": model.config.max_soft_tokens,
        "pooling": model.config.pooling,
        "encoder_type": model.config.encoder_config.model_type,
        "max_chunk_tokens": processor.max_chunk_tokens,
        "tokenizer": _tokenizing(processor.encoder_tokenizer),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for part in (model.chunk_encoder, model.adapter):
        _add_weights(digest, part)
    return digest.hexdigest()


def encoder_fingerprint(model: CompositeModel) -> str:
    """SHA-256 over what the token states of a row of token ids depend on: the encoder's shape and weights."""
    config = _plain(model.config.encoder_config.to_dict())
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    _add_weights(digest, model.chunk_encoder)
    return digest.hexdigest()


def model_fingerprint(model: CompositeModel, processor: E2LLMProcessor) -> str:
    """SHA-256 over what the answers of a model depend on, wherever it was loaded from.

    That is all of `reading_fingerprint`, and the decoder: its configuration, weights (LoRA deltas included)
    with their precision, tokenizer, template and the defaults of generation.
    """
    settings = {
        "reading": reading_fingerprint(model, processor),
        "decoder": _plain(model.config.text_config.to_dict()),
        "generation": _plain(model.generation_config.to_dict()),
        "tokenizer": _tokenizing(processor.tokenizer),
        "template": repr(processor.template),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    _add_weights(digest, model.language_model)
    return digest.hexdigest()


def _tokenizing(tokenizer: Any) -> dict[str, Any]:
    """How a tokenizer makes ids of text, without how it pads and cuts, which every call sets anew."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in content.items() if key not in ("padding", "truncation")}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what says where it came from."""
    return {key: value for key, value in config.items() if key not in _ORIGINS}


def _add_weights(digest: "hashlib._Hash", part: nn.Module) -> None:
    """Add a part's tensors by name, with their precision and shape, and the scales of LoRA deltas."""
    for name, module in part.named_modules():
        if getattr(module, "lora_A", None) is not None:
            digest.update(f"{name} {sorted(module.scaling.items())}".encode())
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))


def weight_versions(model: CompositeModel) -> tuple[tuple[int, int], ...]:
    """Marks that change when a weight of the encoder or the adapter is replaced or written to."""
    tensors = [*model.chunk_encoder.parameters(), *model.adapter.parameters()]
    return tuple((item.data_ptr(), 0 if item.is_inference() else item._version) for item in tensors)
