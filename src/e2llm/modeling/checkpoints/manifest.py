"""Read the manifest of a checkpoint, which lists its files and base models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from transformers.utils import cached_file

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.checkpoints.fingerprint import changed_file
from e2llm.modeling.checkpoints.publication import complete_folder
from e2llm.modeling.checkpoints.sources import INDEX_NAME, indexed_files
from e2llm.modeling.configuration import PART_MODULES
from e2llm.validation import CheckedModel

MANIFEST_NAME = "e2llm_manifest.json"
MANIFEST_FORMAT = 1
HUB_OPTIONS = ("revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")
_FILE_NAME = r"^(\w[\w.-]*/)*\w[\w.-]*$"  # below the folder, nothing hidden
_LORA_CONFIG, _LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def _check_format(value: int) -> int:
    if value > MANIFEST_FORMAT:
        raise E2LLMError(
            f"manifest format {value} is newer than this e2llm can read ({MANIFEST_FORMAT}); upgrade e2llm"
        )
    return value


class PartEntry(CheckedModel, extra="ignore"):
    """Location of a part's weights.

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
            raise E2LLMError("a part is neither saved nor has a base model")
        return self


class Manifest(CheckedModel, extra="ignore"):
    """Content of `e2llm_manifest.json`; file names must not lead out of the folder.

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
    """Find a checkpoint's files: in a folder, the hub's cache, or on the hub.

    Returns:
        The folder to read (`source` itself where it has no manifest) and the manifest.
    """
    options = hub_options(kwargs)
    source, path = find_manifest(source, options)
    is_folder = Path(source).is_dir()
    if is_folder:
        indexed_files(Path(source) / INDEX_NAME)
    if path is None:  # written by plain transformers: everything is inside
        return source, Manifest.read({"parts": {part: {"saved_here": True} for part in PART_MODULES}})
    manifest = read_manifest(path)
    folder = path.parent
    if not is_folder:
        names = ["config.json", *manifest.files]
        names += [name.replace(_LORA_WEIGHTS, _LORA_CONFIG) for name in names if name.startswith("lora/")]
        for name in (*names, INDEX_NAME, "generation_config.json"):
            cached_file(source, name, _raise_exceptions_for_missing_entries=name in names, **options)
    if problem := changed_file(folder, manifest.files, manifest.sha256):
        raise CheckpointError(f"{folder}: {problem}; the checkpoint is incomplete or damaged, copy it again")
    return str(folder), manifest


def find_manifest(source: str, options: Mapping[str, Any]) -> tuple[str, Path | None]:
    """Return the folder or hub id to read a checkpoint from, and its manifest if it has one.

    Args:
        source: Folder or hub id; of a folder whose saving was interrupted, what is complete is found.
        options: Of `hub_options`.
    """
    if Path(source).is_dir():
        source = str(complete_folder(Path(source)))
    path = cached_file(source, MANIFEST_NAME, _raise_exceptions_for_missing_entries=False, **options)
    return source, None if path is None else Path(path)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; raise `CheckpointError` if it is invalid."""
    try:
        return Manifest.read_json(path.read_bytes())
    except E2LLMError as error:
        raise CheckpointError(f"{path}: not a valid manifest ({error})") from error


def read_config(model_class: Any, source: str, kwargs: dict[str, Any]) -> Any:
    """Read the configuration; raise `CheckpointError` if it is of another kind of model."""
    options = {} if Path(source).is_dir() else hub_options(kwargs)
    found, _ = model_class.config_class.get_config_dict(source, **options)
    if not found:
        raise CheckpointError(
            f"{source}: not an E2LLM checkpoint: config.json is missing or empty; "
            "name the folder of a model, such as RUN/final"
        )
    if found.get("model_type") != model_class.config_class.model_type:
        raise CheckpointError(
            f"{source}: has a model of type {found.get('model_type')!r}, not an E2LLM checkpoint; join an "
            "encoder and a decoder with E2LLMForConditionalGeneration.from_parts"
        )
    return model_class.config_class.from_pretrained(source, **options)


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for reading from the hub: the revision, and whether to connect at all."""
    return {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
