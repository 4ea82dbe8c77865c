"""The manifest of a checkpoint: which files belong to it, and which base models it was made with."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from transformers.utils import cached_file

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.parts import INDEX_NAME, PART_MODULES, indexed_files
from e2llm.modeling.publication import complete_folder
from e2llm.validation import CheckedModel

MANIFEST_NAME = "e2llm_manifest.json"
MANIFEST_FORMAT = 1
HUB_OPTIONS = ("revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")
_FILE_NAME = r"^(\w[\w.-]*/)*\w[\w.-]*$"  # below the folder, nothing hidden
_LORA_CONFIG, _LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def _check_format(value: int) -> int:
    if value > MANIFEST_FORMAT:
        raise E2LLMError(
            f"manifest format {value} is newer than this e2llm reads ({MANIFEST_FORMAT}); upgrade e2llm"
        )
    return value


class PartEntry(CheckedModel, extra="ignore"):
    """Where the weights of a part are.

    Attributes:
        saved_here: Whether they are in the checkpoint itself; otherwise a base has them.
        name: Hub id or folder of the base.
        revision: Revision of a hub id; empty for the default one.
        fingerprint: SHA-256 over the base's weight files.
    """

    saved_here: bool
    name: str = ""
    revision: str = ""
    fingerprint: str = ""

    @model_validator(mode="after")
    def _check_base(self) -> "PartEntry":
        if not self.saved_here and not (self.name and self.fingerprint):
            raise E2LLMError("a part is neither saved here nor has a base")
        return self


class Manifest(CheckedModel, extra="ignore"):
    """What `e2llm_manifest.json` states; no name of a file leads out of the folder.

    Attributes:
        format: Version of this layout.
        parts: Encoder and decoder.
        lora: Whether the folder holds LoRA deltas.
        files: Size in bytes of each weight file.
        sha256: Hash of each weight file that was hashed, in hexadecimal digits.
    """

    format: Annotated[int, Field(ge=1), AfterValidator(_check_format)] = MANIFEST_FORMAT
    parts: dict[str, PartEntry]
    lora: bool = False
    files: dict[Annotated[str, Field(pattern=_FILE_NAME)], int] = Field(default={})
    sha256: dict[str, str] = Field(default={})

    @model_validator(mode="after")
    def _check_parts(self) -> "Manifest":
        if self.parts.keys() != PART_MODULES.keys():
            raise E2LLMError(f"parts must be {' and '.join(PART_MODULES)}, got {', '.join(self.parts)}")
        return self


def open_checkpoint(source: str, kwargs: dict[str, Any]) -> tuple[str, Manifest]:
    """Find a checkpoint's files, from the hub's cache or the hub if `source` is no folder.

    Returns:
        The folder to read (`source` itself where there is no manifest) and the manifest.
    """
    options = hub_options(kwargs)
    source, path = find_manifest(source, options)
    if Path(source).is_dir():
        indexed_files(Path(source) / INDEX_NAME)
    if path is None:  # written by plain transformers: everything is inside
        return source, Manifest.read({"parts": {part: {"saved_here": True} for part in PART_MODULES}})
    manifest = read_manifest(path)
    folder = path.parent
    names = ["config.json", *manifest.files]
    if manifest.lora and not Path(source).is_dir():
        names += [name.replace(_LORA_WEIGHTS, _LORA_CONFIG) for name in names if name.startswith("lora/")]
    if not Path(source).is_dir():
        for name in (*names, INDEX_NAME, "generation_config.json"):
            cached_file(source, name, _raise_exceptions_for_missing_entries=name in names, **options)
    if problem := changed_file(folder, manifest.files, manifest.sha256):
        raise CheckpointError(f"{folder}: {problem}; the checkpoint is incomplete or damaged, copy it again")
    return str(folder), manifest


def find_manifest(source: str, options: Mapping[str, Any]) -> tuple[str, Path | None]:
    """The folder or hub id to read a checkpoint from, and its manifest if it has one.

    Args:
        source: Folder or hub id; of a folder whose saving was interrupted, what is complete is found.
        options: Of `hub_options`.
    """
    if Path(source).is_dir():
        source = str(complete_folder(Path(source)))
    path = cached_file(source, MANIFEST_NAME, _raise_exceptions_for_missing_entries=False, **options)
    return source, None if path is None else Path(path)


def list_files(
    folder: Path, files: Iterable[Path], *, max_hashed_bytes: float = math.inf
) -> dict[str, dict[str, Any]]:
    """The sizes and hashes of files, by which `changed_file` finds out later what has become of them.

    Args:
        folder: What their names are relative to.
        files: The files, in any order.
        max_hashed_bytes: Files of this size or more are listed without a hash.

    Returns:
        `files`: name to size in bytes, and `sha256`: name to hash in hexadecimal digits.
    """
    named = {file.relative_to(folder).as_posix(): file for file in sorted(files)}
    sizes = {name: file.stat().st_size for name, file in named.items()}
    hashes = {name: file_hash(named[name]) for name, size in sizes.items() if size < max_hashed_bytes}
    return {"files": sizes, "sha256": hashes}


def changed_file(folder: Path, sizes: Mapping[str, int], hashes: Mapping[str, str]) -> str:
    """What is wrong with the first file that is gone or is not as it was listed; empty if all are.

    Args:
        folder: What the names are relative to.
        sizes: Size of each file, in bytes.
        hashes: SHA-256 of files, in hexadecimal digits; of one without a hash the size alone is looked at.
    """
    for name, size in sizes.items():  # of all files before the first hash, which takes long
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (found := (folder / name).stat().st_size) != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    for name in sizes:
        if name in hashes and file_hash(folder / name) != hashes[name]:
            return f"{name} has other content than was saved (another SHA-256)"
    return ""


def file_hash(file: Path) -> str:
    """SHA-256 of a file in hexadecimal digits, read piece by piece."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; raises `CheckpointError` if it does not hold what a manifest holds."""
    try:
        return Manifest.read_json(path.read_bytes())
    except E2LLMError as error:
        raise CheckpointError(f"{path}: not a valid manifest ({error})") from error


def read_config(model_class: Any, source: str, kwargs: dict[str, Any]) -> Any:
    """Read the configuration; raises `CheckpointError` if it is of another kind of model."""
    options = {} if Path(source).is_dir() else hub_options(kwargs)
    found, _ = model_class.config_class.get_config_dict(source, **options)
    if not found:
        raise CheckpointError(
            f"{source}: not an E2LLM checkpoint, for it holds no config.json or an empty one; "
            "name the folder of a model, such as RUN/final"
        )
    if found.get("model_type") != model_class.config_class.model_type:
        raise CheckpointError(
            f"{source}: holds a model of type {found.get('model_type')!r}, not an E2LLM checkpoint; join an "
            "encoder and a decoder with E2LLMForConditionalGeneration.from_parts"
        )
    return model_class.config_class.from_pretrained(source, **options)


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that say which revision of a hub id to read, and whether to ask the hub at all."""
    return {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
