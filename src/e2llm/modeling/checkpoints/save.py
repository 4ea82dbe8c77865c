"""Save a checkpoint: refer to unchanged base models, and store everything else."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationConfig

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.checkpoints.fingerprint import HASH_WHOLE_FILE_BYTES, list_files
from e2llm.modeling.checkpoints.manifest import MANIFEST_FORMAT, MANIFEST_NAME
from e2llm.modeling.checkpoints.parts import PartSource
from e2llm.modeling.checkpoints.publication import publishing
from e2llm.modeling.checkpoints.quantization import is_quantized
from e2llm.modeling.checkpoints.reporting import quiet_loading
from e2llm.modeling.checkpoints.sources import INDEX_NAME
from e2llm.modeling.configuration import PART_MODULES
from e2llm.version import __version__

_OWNED_FILES = ("model*.safetensors", INDEX_NAME, MANIFEST_NAME, "lora/*/adapter_*")


def save_model(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    self_contained: bool = False,
    max_shard_size: int | str = "5GB",
    state_dict: dict[str, torch.Tensor] | None = None,
    is_main_process: bool = True,
    **unused: Any,
) -> None:
    """Write a checkpoint; a crash at any moment leaves the previous or the new one complete.

    Args:
        model: The model.
        folder: Where to; other files in it (tokenizers, a trainer's state) stay.
        self_contained: Merge LoRA and write all weights.
        max_shard_size: Most bytes in one weight file.
        state_dict: The model's tensors by their names, where they were gathered from several processes.
        is_main_process: Only the main process writes.
        unused: Other arguments of transformers' `save_pretrained`; they must be unset.

    Raises:
        E2LLMError: For an argument that has no effect here.
    """
    not_supported = [name for name, value in unused.items() if value and name != "safe_serialization"]
    if unused.get("safe_serialization") is False or not_supported:
        names = ", ".join([*not_supported, *(["safe_serialization=False"] if not not_supported else [])])
        raise E2LLMError(f"save_pretrained does not support {names}; checkpoints are safetensors folders")
    if self_contained and state_dict is not None and lora.has_lora(model):
        raise E2LLMError(
            "state_dict and self_contained exclude each other while LoRA is attached; call merge_lora first"
        )
    if not is_main_process:
        return
    with publishing(Path(folder), _OWNED_FILES) as staging:
        _write_checkpoint(model, staging, self_contained, max_shard_size, state_dict)


def _write_checkpoint(
    model: Any,
    folder: Path,
    self_contained: bool,
    max_shard_size: int | str,
    state_dict: dict[str, torch.Tensor] | None,
) -> None:
    has_lora = lora.has_lora(model)
    saved_parts = {
        part: self_contained or not _source(model, part).name or trains_base(model, part)
        for part in PART_MODULES
    }
    state = model.state_dict() if state_dict is None else state_dict
    base = lora.merged_state_dict(model) if self_contained and has_lora else lora.base_state_dict(state)
    write_weights(select_tensors(base, saved_parts), folder, max_shard_size)
    if has_lora and not self_contained:
        lora.save_lora(model, folder / "lora", state)
    manifest = {
        "format": MANIFEST_FORMAT,
        "e2llm_version": __version__,
        "parts": {
            part: {"saved_here": saved, **asdict(PartSource() if saved else _source(model, part))}
            for part, saved in saved_parts.items()
        },
        "lora": has_lora and not self_contained,
        **list_files(folder, folder.rglob("*.safetensors"), max_hashed_bytes=HASH_WHOLE_FILE_BYTES),
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    model.config.dtype = widest_dtype(model)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def widest_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype that can represent every floating-point parameter, since a checkpoint loads in one."""
    widest = torch.float16
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    for kind in kinds:
        widest = kind if len(kinds) == 1 else torch.promote_types(widest, kind)
    return widest


def _source(model: Any, part: str) -> PartSource:
    source: PartSource = model.part_sources.get(part, PartSource())
    return source


def trains_base(model: Any, part: str) -> bool:
    """Return whether a part's weights train (LoRA aside), so that they differ from any base model."""
    module = getattr(model, PART_MODULES[part])
    return any(p.requires_grad and "lora_" not in name for name, p in module.named_parameters())


def select_tensors(state: dict[str, torch.Tensor], saved_parts: dict[str, bool]) -> dict[str, torch.Tensor]:
    """Return the tensors to store: those of the adapter and of the saved parts, tied tensors once."""
    keep = ("adapter.", *(f"{PART_MODULES[part]}." for part, saved in saved_parts.items() if saved))
    selected: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    for name, tensor in state.items():
        if not name.startswith(keep):
            continue
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if identity in seen and tensor.data_ptr():
            continue
        seen.add(identity)
        selected[name] = tensor.detach().to("cpu").contiguous()
    return selected


def write_weights(state: dict[str, torch.Tensor], folder: Path, max_shard_size: int | str) -> None:
    """Write tensors as one safetensors file or as shards with an index."""
    split = split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


_ID_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_decoder(model: Any, tokenizer: Any, folder: str | os.PathLike[str]) -> None:
    """Write a model's decoder as a plain causal LM of transformers, in safetensors files.

    The embedding keeps all of its rows, the placeholder's too, so that token ids mean the same there and
    here. Of the generation settings only the ids are written that begin, end and pad a text: the others would
    change answers where a server takes them for defaults.

    Args:
        model: Its LoRA layers are merged into it, in place.
        tokenizer: The decoder's, written beside it.
        folder: Where to; made if need be.

    Raises:
        E2LLMError: If the decoder is quantized.
    """
    if is_quantized(model.language_model):
        raise E2LLMError(
            "the decoder is quantized, and rounded weights cannot be exported; load the model with "
            "quantization_config=None"
        )
    decoder = lora.merge_lora(model).language_model
    ids = {name: getattr(model.generation_config, name, None) for name in _ID_NAMES}
    former = decoder.generation_config
    decoder.generation_config = GenerationConfig(
        **{name: value for name, value in ids.items() if value is not None}
    )
    try:
        with quiet_loading():
            decoder.save_pretrained(Path(folder))
    finally:
        decoder.generation_config = former
    tokenizer.save_pretrained(Path(folder))
