"""Check GGUF files, and convert each once into a folder that loads in seconds.

`<cache>/gguf/<key>/` holds bf16 safetensors, the tokenizer and the generation settings. The key begins with
the SHA-256 of the GGUF file. An entry appears by one rename, under a lock, so that it is whole.
"""

import io
import os
import re
import shutil
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

from e2llm.errors import CheckpointError, MissingExtraError
from e2llm.files import sync
from e2llm.messages import printable
from e2llm.modeling.checkpoints.reporting import listing, quiet_loading, readable_errors
from e2llm.prompts import build_template

CACHE_VARIABLE = "E2LLM_CACHE"
_FORMAT = 1  # part of the key: other conversions of the same file go beside, not over, older ones
# Pre-tokenizers that split off every digit; transformers splits their texts as GPT-2 does.
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")

_SPLIT_NAME = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
# transformers' spelling of an architecture, where it is not that of the files
_FILE_SPELLINGS = {
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax-m2",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}
_NO_DECODERS = {"general", "tokenizer", "t5", "t5encoder", "umt5"}  # of transformers' table


def cache_folder() -> Path:
    """Return the folder for converted models: `$E2LLM_CACHE`, or `e2llm` in the user's cache folder."""
    if stated := os.environ.get(CACHE_VARIABLE):
        return Path(stated).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "e2llm"


def converted_folder(file: Path, mark: str) -> Path:
    """Return the folder with the converted model of a GGUF file; convert it if necessary.

    Args:
        file: The GGUF file.
        mark: Its SHA-256.

    Raises:
        CheckpointError: If the file cannot be converted, or the cache cannot be written to.
        MissingExtraError: If the package `gguf` is needed and not installed.
    """
    entry = cache_folder() / "gguf" / f"{mark}-{_FORMAT}"
    if entry.is_dir():
        return entry
    metadata = check_gguf(file)  # before the lock, so that bad input is refused at once
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_name(f"{entry.name}.lock")):
            if not entry.is_dir():  # another process may have converted it in the meantime
                _make_entry(file, metadata, entry)
    except OSError as error:
        raise CheckpointError(
            f"{file}: the converted weights cannot be written to {entry.parent}: "
            f"{error.strerror or error}; set {CACHE_VARIABLE} to a folder with room for them"
        ) from error
    return entry


def _make_entry(file: Path, metadata: dict[str, Any], entry: Path) -> None:
    """Convert a file into a temporary folder, and rename it to the entry; the caller holds the lock."""
    print(printable(f"converting {file.name} to bfloat16, once: {entry}"), file=sys.stderr, flush=True)
    for left_behind in entry.parent.glob(f".{entry.name}.*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
    made = staging / "made"  # with the permissions of the user's new folders, which `staging` has not
    try:
        made.mkdir()
        convert(file, metadata, made)
        for item in made.iterdir():
            sync(item)
        os.rename(made, entry)
        sync(entry.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def convert(file: Path, metadata: dict[str, Any], folder: Path) -> None:
    """Write a GGUF file's model in bfloat16, its tokenizer and its generation settings into a folder.

    Raises:
        CheckpointError: If transformers cannot read the file, or the file lacks tensors.
        OSError: If the folder cannot be written to.
    """
    with readable_errors(str(file)), quiet_loading(), redirect_stderr(io.StringIO()):  # its progress bar
        tokenizer = _load_tokenizer(file, metadata)
        model = _load_model(file, metadata)
        _set_ends(model, tokenizer, metadata)
    with quiet_loading():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)


def _load_tokenizer(file: Path, metadata: dict[str, Any]) -> Any:
    """Return the tokenizer that a GGUF file describes, with its chat template and the model's window."""
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
    architecture = metadata["general.architecture"]
    if metadata.get("tokenizer.ggml.pre") in _SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gemma4":  # whose chat template writes the token that begins a text
        stated = {"add_bos_token": kind == "llama", "add_eos_token": False}
        for name, default in stated.items():  # transformers 5.20 reads past these flags
            wanted = metadata.get(f"tokenizer.ggml.{name}", default)
            if bool(getattr(tokenizer, name, False)) != wanted:
                setattr(tokenizer, name, wanted)
    if window := metadata.get(f"{architecture}.context_length"):
        tokenizer.model_max_length = int(window)
    return tokenizer


def _load_config(file: Path, metadata: dict[str, Any]) -> Any:
    """Return a GGUF file's configuration, with the width of its heads, which transformers ignores."""
    config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
    stated = metadata.get(f"{metadata['general.architecture']}.attention.key_length")
    if isinstance(stated, int) and isinstance(getattr(config, "head_dim", None), int):
        config.head_dim = stated
    return config


def _load_model(file: Path, metadata: dict[str, Any]) -> Any:
    """Load a GGUF file's model in bfloat16, with a configuration that names no file."""
    config = _load_config(file, metadata)
    model, info = AutoModelForCausalLM.from_pretrained(
        str(file.parent),
        config=config,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, by name
        trust_remote_code=False,
        quantization_config=GgufConfig(dequantize=True),
    )
    with torch.device("meta"):
        wanted = AutoModelForCausalLM.from_config(config).state_dict()
    problems = {*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])}
    problems |= {
        key for key, value in model.state_dict().items() if key in wanted and value.shape != wanted[key].shape
    }
    if problems:
        raise CheckpointError(
            f"{file}: tensors missing or of another shape than stated: {listing(list(problems))}; "
            "download it again, or give a folder with safetensors weights"
        )
    spoilt = [name for name, item in model.named_parameters() if not bool(torch.isfinite(item).all())]
    if spoilt:
        raise CheckpointError(
            f"{file}: its weights contain NaN or infinity ({listing(spoilt)}); download it again"
        )
    for left_over in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, left_over):
            delattr(model.config, left_over)
    model.config.name_or_path = ""
    return model


def _set_ends(model: Any, tokenizer: Any, metadata: dict[str, Any]) -> None:
    """Set generation to end at each end token of the file, and where its chat template ends a turn."""
    ends = [metadata.get(key) for key in _END_KEYS]
    if tokenizer.chat_template:
        ends += [
            item
            for item in build_template(tokenizer).after_answer[:1]
            if item in tokenizer.added_tokens_decoder
        ]
    ends = list(dict.fromkeys(item for item in ends if item is not None))
    if ends:
        model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends
    if tokenizer.pad_token_id is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


# --- checking ---------------------------------------------------------------------------------------------


def check_gguf(file: Path) -> dict[str, Any]:
    """Return a GGUF file's metadata (without arrays) if its model can be loaded.

    Raises:
        CheckpointError: If the file is damaged, one of several parts, holds no decoder that transformers
            reads from GGUF files, or uses a quantization or a position scaling that is not read.
        MissingExtraError: If the package `gguf` is not installed.
        OSError: If the file cannot be opened.
    """
    metadata, tensors = _read(file)
    _check_whole(file, metadata)
    _check_architecture(file, metadata)
    _check_positions(file, metadata, [tensor.name for tensor in tensors])
    return metadata


def _read(file: Path) -> tuple[dict[str, Any], list[Any]]:
    """Return the metadata (without arrays) and the tensors of a GGUF file."""
    try:
        import numpy
        from gguf import GGUFReader, GGUFValueType
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf") from error

    class BoundedReader(GGUFReader):  # type: ignore[misc, unused-ignore]
        """A reader that raises at the end of the file, where the library would read empty values forever."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *more: Any, **options: Any) -> Any:
            if int(offset) + numpy.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("it ends before the data that its header announces")
            return super()._get(offset, dtype, count, *more, **options)

    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise CheckpointError(f"{file}: not a GGUF file (it does not begin with GGUF); download it again")
    try:
        reader = BoundedReader(file)
        metadata = {
            key: None if field.types[0] == GGUFValueType.ARRAY else field.contents()
            for key, field in reader.fields.items()
        }
        return metadata, reader.tensors
    except (ValueError, IndexError, KeyError, OverflowError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file}: cut short or damaged ({error}); download it again") from error


def supported_architectures() -> list[str]:
    """Return the decoder architectures that transformers reads from GGUF files, as the files spell them."""
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    names = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS}
    return sorted({_FILE_SPELLINGS.get(name, name) for name in names} - _NO_DECODERS)


def _check_whole(file: Path, metadata: dict[str, Any]) -> None:
    named = _SPLIT_NAME.search(file.name)
    count = metadata.get("split.count", 0) or (int(named[1]) if named else 0)
    if isinstance(count, int) and count > 1:
        raise CheckpointError(
            f"{file}: is one of {count} parts of a split GGUF file, but only whole files can be read; join "
            "them with llama.cpp: llama-gguf-split --merge FIRST_PART WHOLE.gguf"
        )


def _check_architecture(file: Path, metadata: dict[str, Any]) -> None:
    architecture, supported = str(metadata.get("general.architecture")), supported_architectures()
    if _FILE_SPELLINGS.get(architecture, architecture) not in supported:
        raise CheckpointError(
            f"{file}: has a model of architecture {architecture}, which cannot be read from GGUF files; "
            f"supported are {', '.join(supported)}; for another, give a folder with safetensors weights"
        )
    shape = [f"{architecture}.{key}" for key in ("block_count", "embedding_length", "context_length")]
    if missing := [key for key in [*shape, "tokenizer.ggml.tokens"] if key not in metadata]:
        raise CheckpointError(
            f"{file}: its metadata lacks {', '.join(missing)}; download it again, or convert the model again"
        )


def _check_positions(file: Path, metadata: dict[str, Any], names: list[str]) -> None:
    """Refuse scaled rotary embeddings, which transformers silently ignores (except for gpt-oss)."""
    architecture = metadata["general.architecture"]
    if architecture in ("gpt-oss", "gpt_oss"):
        return
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    found = [name for name in names if name.startswith(("rope_freqs", "rope_factors"))]
    if scaling != "none":
        found.append(f"{architecture}.rope.scaling.type = {scaling}")
    if found:
        raise CheckpointError(
            f"{file}: its rotary positions are scaled ({found[0]}), which transformers ignores in GGUF files "
            "(answers would be wrong); give a folder with the model's safetensors weights"
        )
