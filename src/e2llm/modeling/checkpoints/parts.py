"""Load an encoder or a decoder, and fit it into the model.

Only models that transformers implements itself are loaded, from safetensors or GGUF files, and only if every
tensor is there.
"""

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.model_names import MINILM_ID
from e2llm.modeling.checkpoints.reporting import listing, quiet_loading, readable_errors
from e2llm.modeling.checkpoints.sources import MINILM_SHA256, find_model, fingerprint, gguf_file
from e2llm.modeling.configuration import E2LLMConfig

MAX_ADDED_ROWS = 256
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
_LARGEST_LIMIT = 10**9  # tokenizers without a limit state 10**30


@dataclass(frozen=True)
class PartSource:
    """Origin of a part's base weights.

    Attributes:
        name: Hub id or folder; empty for weights that exist nowhere else.
        revision: Revision of a hub id; empty for the default one.
        fingerprint: SHA-256 over the base's weight files; empty when `name` is.
    """

    name: str = ""
    revision: str = ""
    fingerprint: str = ""


def load_tokenizer(name: str, kwargs: dict[str, Any] | None = None) -> Any:
    """Load a tokenizer by hub id, folder, GGUF file or embedded name; `kwargs` may have a `revision`."""
    revision = {"revision": kwargs["revision"]} if kwargs and kwargs.get("revision") else {}
    with readable_errors(f"tokenizer of {name}"):
        source = find_model(name, **revision)
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **revision)


def load_part(
    part: str, model: str | os.PathLike[str] | PreTrainedModel, kwargs: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, PartSource]:
    """Load an encoder or a decoder by name, or accept an instance (and remove its unused pooler).

    Args:
        part: `encoder` or `decoder`.
        model: Hub id, folder, GGUF file (bfloat16 unless `dtype` says otherwise), or an instance.
        kwargs: More arguments for `from_pretrained`.

    Raises:
        E2LLMError: If an instance is no model of the right kind.
        CheckpointError: If a model cannot be found, is incomplete, brings code, or has neither safetensors
            nor GGUF weights.
        MissingExtraError: If a GGUF file must be converted and the package `gguf` is not installed.
    """
    if not isinstance(model, str | os.PathLike):
        check_instance(part, model)
        drop_pooler(model)
        return model, PartSource()
    name, options = str(model), dict(kwargs or {})
    reject_trust_remote_code(options)
    options.update(use_safetensors=True, trust_remote_code=False)
    revision = options.get("revision") or ""
    pinned = {"revision": revision} if revision else {}
    source = find_model(name, **pinned)
    with readable_errors(f"{part} {name}"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **pinned)
        _check_config(config, part, name)
        mark = fingerprint(name, revision)  # before loading, so that a download shows its progress
        if name == MINILM_ID and mark != MINILM_SHA256:
            raise CheckpointError(
                f"{name}: the weights have SHA-256 {mark}, expected {MINILM_SHA256}; reinstall the package"
            )
        if part == "encoder":
            options.update(encoder_build_kwargs(config))
        loader = AutoModel if part == "encoder" else AutoModelForCausalLM
        with quiet_loading():
            loaded, info = loader.from_pretrained(source, output_loading_info=True, **options)
    problems = [*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])]
    if problems:
        raise CheckpointError(
            f"{part} {name}: the weights lack {listing(problems)}, which would be random; "
            f"is this a{'n' if part == 'encoder' else ''} {part}?"
        )
    if Path(name).exists():
        name = str((gguf_file(name) or Path(name)).resolve())
    loaded.config.name_or_path = name  # not the folder of its files on this machine
    return loaded, PartSource(name, revision, mark)


def _check_config(config: Any, part: str, name: str) -> None:
    """Raise `CheckpointError` for a model with remote code, a whole E2LLM model, or an encoder-decoder."""
    reject_remote_code(config, name)
    if config.model_type == E2LLMConfig.model_type:
        raise CheckpointError(
            f"{part} {name}: is a whole E2LLM checkpoint; give its {part}, or load all of it: "
            "from_pretrained, or init_from in a recipe"
        )
    if config.is_encoder_decoder:
        raise CheckpointError(
            f"{part} {name}: is an encoder-decoder model ({config.model_type}), which is not supported"
        )


def check_instance(part: str, model: Any) -> None:
    """Raise `E2LLMError` unless an instance is a text encoder or a causal LM of transformers."""
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise E2LLMError(f"{part} must be a hub id, a folder or a transformers model, got {kind}")
    if part == "decoder" and not model.can_generate():
        raise E2LLMError(f"the decoder must be a causal LM, got {kind}; load it with AutoModelForCausalLM")
    if part == "encoder" and model.base_model is not model:
        raise E2LLMError(f"the encoder must be a model without a head, got {kind}; load it with AutoModel")
    if model.config.is_encoder_decoder:
        raise E2LLMError(f"the {part} is an encoder-decoder model ({kind}), which is not supported")


def reject_remote_code(config: Any, name: str) -> None:
    """Raise if a configuration names code in the checkpoint (`auto_map`)."""
    if getattr(config, "auto_map", None):
        raise CheckpointError(
            f"{name}: its config.json has 'auto_map', which would run code from the checkpoint; only models "
            "that transformers implements can be loaded"
        )


def reject_trust_remote_code(kwargs: dict[str, Any]) -> None:
    """Remove `trust_remote_code` from arguments; raise `E2LLMError` if it is on."""
    if kwargs.pop("trust_remote_code", False):
        raise E2LLMError("trust_remote_code=True is refused: code from a checkpoint is never run")


# --- fitting a part in ------------------------------------------------------------------------------------


def ensure_embedding_row(decoder: PreTrainedModel, token_id: int) -> None:
    """Add rows to a decoder's embedding until the placeholder has one.

    The rows are zero, so that the same logits come out wherever the base is loaded again; none is ever read
    or generated.

    Raises:
        E2LLMError: If it lies `MAX_ADDED_ROWS` rows or more beyond the decoder's: it is of another tokenizer.
    """
    before = decoder.get_input_embeddings().num_embeddings
    if token_id < before:
        return
    if token_id >= before + MAX_ADDED_ROWS:
        raise E2LLMError(
            f"the placeholder has id {token_id}, but the decoder has {before} embedding rows, and at most "
            f"{MAX_ADDED_ROWS} are added; give the tokenizer that belongs to the decoder"
        )
    with quiet_loading():
        decoder.resize_token_embeddings(token_id + 1, mean_resizing=False)
    head = decoder.get_output_embeddings()
    with torch.no_grad():
        decoder.get_input_embeddings().weight[before:] = 0
        if head is not None:
            head.weight[before:] = 0
            if getattr(head, "bias", None) is not None:
                head.bias[before:] = 0


def encoder_build_kwargs(config: Any) -> dict[str, Any]:
    """Return arguments that leave out an encoder's unused pooler, if its class accepts them."""
    model_class = AutoModel._model_mapping[type(config)]
    if isinstance(model_class, (list, tuple)):
        model_class = model_class[0]
    takes = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def drop_pooler(encoder: PreTrainedModel) -> None:
    """Remove an unused pooler from an encoder instance, as `encoder_build_kwargs` does when loading."""
    if "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters:
        encoder.pooler = None


def encoder_token_limit(tokenizer: Any = None, config: Any = None) -> int:
    """Return the most tokens that an encoder reads at once, by its tokenizer and configuration.

    Returns:
        The limit, special tokens included; 512 if neither states one.
    """
    limits = []
    if tokenizer is not None and tokenizer.model_max_length < _LARGEST_LIMIT:
        limits.append(int(tokenizer.model_max_length))
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        taken = config.pad_token_id + 1 if config.model_type in _POSITIONS_AFTER_PADDING else 0
        limits.append(int(positions) - taken)
    return min(limits) if limits else 512
