"""Checking a GGUF file before transformers unpacks its tensors; the package `gguf` reads the header."""

import re
from pathlib import Path
from typing import Any

from e2llm.errors import CheckpointError, MissingExtraError

_SPLIT_NAME = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
# transformers' spelling of an architecture, where it is not that of the files
_FILE_SPELLINGS = {
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax-m2",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}
_NO_DECODERS = {"general", "tokenizer", "t5", "t5encoder", "umt5"}  # of transformers' table
_NO_LANGUAGE_MODELS = {"clip", "whisper", "mmproj", "sd1", "sdxl", "sd3", "flux", "wavtokenizer-dec"}


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
    _check_tensors(file, tensors)
    _check_positions(file, metadata, [tensor.name for tensor in tensors])
    return metadata


def _read(file: Path) -> tuple[dict[str, Any], list[Any]]:
    """The metadata (without arrays) and the tensors of a GGUF file."""
    try:
        import numpy
        from gguf import GGUFReader, GGUFValueType
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf") from error

    class BoundedReader(GGUFReader):  # type: ignore[misc, unused-ignore]
        """A reader that raises for a value beyond the end, where the library reads empty ones without end."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *more: Any, **options: Any) -> Any:
            if int(offset) + numpy.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("it ends before what its header announces")
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
    """Architectures of decoders that transformers reads from GGUF files, as the files spell them."""
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    names = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS}
    return sorted({_FILE_SPELLINGS.get(name, name) for name in names} - _NO_DECODERS)


def _check_whole(file: Path, metadata: dict[str, Any]) -> None:
    named = _SPLIT_NAME.search(file.name)
    count = metadata.get("split.count", 0) or (int(named[1]) if named else 0)
    if isinstance(count, int) and count > 1:
        raise CheckpointError(
            f"{file}: is one of {count} parts of a split GGUF file, and only whole files are read; join them "
            "with llama.cpp: llama-gguf-split --merge FIRST_PART WHOLE.gguf"
        )


def _check_architecture(file: Path, metadata: dict[str, Any]) -> None:
    architecture = str(metadata.get("general.architecture"))
    kind = str(metadata.get("general.type", "model"))
    supported = supported_architectures()
    if kind != "model" or architecture in _NO_LANGUAGE_MODELS:
        what = f"architecture {architecture}" if kind == "model" else f"general.type {kind}"
        raise CheckpointError(f"{file}: holds no language model ({what}); give the GGUF file of a decoder")
    if _FILE_SPELLINGS.get(architecture, architecture) not in supported:
        raise CheckpointError(
            f"{file}: holds a model of architecture {architecture}, which is not read from GGUF files; "
            f"supported are {', '.join(supported)}; for another, give a folder with safetensors weights"
        )
    shape = [f"{architecture}.{key}" for key in ("block_count", "embedding_length", "context_length")]
    if missing := [key for key in [*shape, "tokenizer.ggml.tokens"] if key not in metadata]:
        raise CheckpointError(
            f"{file}: its metadata lacks {', '.join(missing)}; download it again, or convert the model again"
        )


def _check_tensors(file: Path, tensors: list[Any]) -> None:
    from gguf import quants

    supported = {"F32", "F16", *(item.name for item in quants._type_traits)}
    if not tensors:
        raise CheckpointError(f"{file}: has no tensors; give the GGUF file of a decoder with its weights")
    for tensor in tensors:
        if tensor.tensor_type.name not in supported:
            raise CheckpointError(
                f"{file}: {tensor.name} is quantized as {tensor.tensor_type.name}, which is not read; "
                f"supported are {', '.join(sorted(supported))}"
            )


def _check_positions(file: Path, metadata: dict[str, Any], names: list[str]) -> None:
    """Refuse scaled rotary embeddings, which transformers ignores without a word (but for gpt-oss)."""
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
