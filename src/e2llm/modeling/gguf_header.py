"""Reading and checking the header of a GGUF file, before transformers unpacks its tensors.

The header is untrusted input: every length is compared with the size of the file before anything is read.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from e2llm.errors import CheckpointError, MissingExtraError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 8
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


@dataclass(frozen=True)
class GgufTensor:
    """Name, shape (slowest dimension last, as in the file), GGML type and offset in bytes of one tensor."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        metadata: Key to value; of an array of texts only its length is kept.
        tensors: The tensors, in the file's order.
        data_start: Where the tensors' data begin, in bytes.
        file_size: Size of the whole file, in bytes.
    """

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_start: int
    file_size: int


class _CutShortError(Exception):
    """The file ends before what its header announces."""


class _Cursor:
    """Reads little-endian values from a file in memory, never beyond its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def skip(self, length: int) -> int:
        """Move on by `length` bytes and return where they begin."""
        start = self.position
        if length > len(self.data) - start:
            raise _CutShortError
        self.position = start + length
        return start

    def unpack(self, kinds: str) -> tuple[Any, ...]:
        layout = "<" + kinds
        return struct.unpack_from(layout, self.data, self.skip(struct.calcsize(layout)))

    def text(self) -> str:
        (length,) = self.unpack("Q")
        start = self.skip(length)
        return self.data[start : start + length].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A value of the metadata; of an array of texts its length."""
        if kind in _SCALARS:
            return self.unpack(_SCALARS[kind])[0]
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind}")
        element, count = self.unpack("IQ")
        if element in _SCALARS:
            start = self.skip(count * struct.calcsize("<" + _SCALARS[element]))
            return list(struct.unpack_from(f"<{count}{_SCALARS[element]}", self.data, start))
        if element != _STRING:
            raise ValueError(f"an array of type {element}")
        if 8 * count > len(self.data) - self.position:
            raise _CutShortError
        for _ in range(count):
            self.skip(self.unpack("Q")[0])
        return count


def read_gguf_header(file: Path) -> GgufHeader:
    """Read the header of a GGUF file; the data of its tensors are not touched.

    Raises:
        CheckpointError: If the file is no GGUF file, or ends within its header.
        OSError: If it cannot be opened.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(4) != _MAGIC:
            raise CheckpointError(
                f"{file}: not a GGUF file, for it does not begin with the letters GGUF; download it again"
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                metadata, tensors, end = _read(_Cursor(data))
            except _CutShortError:
                raise _cut_short(file, size, "its header is incomplete") from None
            except (ValueError, OverflowError) as error:
                raise CheckpointError(
                    f"{file}: not a GGUF file that can be read: its header holds {error}; download it again"
                ) from error
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise CheckpointError(f"{file}: general.alignment is {alignment!r}, not a positive whole number")
    return GgufHeader(metadata, tensors, -(-end // alignment) * alignment, size)


def _read(cursor: _Cursor) -> tuple[dict[str, Any], tuple[GgufTensor, ...], int]:
    cursor.skip(len(_MAGIC))
    (version,) = cursor.unpack("I")
    if version not in _VERSIONS:
        raise ValueError(f"version {version}, and versions {_VERSIONS[0]} and {_VERSIONS[1]} are supported")
    num_tensors, num_values = cursor.unpack("QQ")
    metadata = {}
    for _ in range(num_values):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.unpack("I")[0])
    tensors = []
    for _ in range(num_tensors):
        name = cursor.text()
        (num_dimensions,) = cursor.unpack("I")
        if num_dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {num_dimensions} dimensions")
        shape = cursor.unpack(f"{num_dimensions}Q")
        tensors.append(GgufTensor(name, shape, *cursor.unpack("IQ")))
    return metadata, tuple(tensors), cursor.position


def _cut_short(file: Path, size: int, why: str) -> CheckpointError:
    return CheckpointError(f"{file}: cut short at {size:,} bytes ({why}); download it again")


# --- what is supported ------------------------------------------------------------------------------------


def require_gguf() -> Any:
    """The package `gguf`.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf") from error
    return gguf


def supported_architectures() -> list[str]:
    """Architectures of decoders that transformers reads from GGUF files, as the files spell them."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    names = set(GGUF_SUPPORTED_ARCHITECTURES)
    try:
        from transformers.integrations.gguf import GGUF_ARCHS

        names |= set(GGUF_ARCHS)
    except ImportError:  # an older transformers
        pass
    return sorted({_FILE_SPELLINGS.get(name, name) for name in names} - _NO_DECODERS)


def supported_types(gguf: Any) -> set[str]:
    """Names of the GGML types that the package `gguf` unpacks."""
    from gguf import quants

    packed = getattr(quants, "_type_traits", None)
    names = {"F32", "F16"}
    names |= {item.name for item in (gguf.GGMLQuantizationType if packed is None else packed)}
    return names


def check_gguf(file: Path) -> GgufHeader:
    """Read a GGUF file's header and make sure that its model can be loaded.

    Raises:
        CheckpointError: If the file is damaged, one of several parts, holds no decoder that transformers
            reads from GGUF files, or uses a quantization or a position scaling that is not read.
        MissingExtraError: If the package `gguf` is not installed.
    """
    header = read_gguf_header(file)
    gguf = require_gguf()
    _check_whole(file, header.metadata)
    _check_architecture(file, header.metadata)
    _check_tensors(file, header, gguf)
    _check_positions(file, header)
    return header


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


def _check_tensors(file: Path, header: GgufHeader, gguf: Any) -> None:
    supported = supported_types(gguf)
    numbers = {item.value: item.name for item in gguf.GGMLQuantizationType}
    sizes = {item.name: size for item, size in gguf.GGML_QUANT_SIZES.items()}
    room = header.file_size - header.data_start
    if not header.tensors:
        raise CheckpointError(f"{file}: holds no tensors; give the GGUF file of a decoder with its weights")
    for tensor in header.tensors:
        kind = numbers.get(tensor.type_number, f"number {tensor.type_number}")
        if kind not in supported or kind not in sizes:
            raise CheckpointError(
                f"{file}: {tensor.name} is quantized as {kind}, which is not read; supported are "
                f"{', '.join(sorted(supported))}"
            )
        block, block_bytes = sizes[kind]
        elements = prod(tensor.shape)
        if not tensor.shape or tensor.shape[0] % block:
            raise CheckpointError(
                f"{file}: {tensor.name} has shape {list(tensor.shape)}, but {kind} has blocks of {block}; "
                "the file is damaged, download it again"
            )
        if tensor.offset + elements // block * block_bytes > room:
            raise _cut_short(file, header.file_size, f"{tensor.name} lies beyond the end")


def _check_positions(file: Path, header: GgufHeader) -> None:
    """Refuse scaled rotary embeddings, which transformers reads past without a word (but for gpt-oss)."""
    architecture = header.metadata["general.architecture"]
    if architecture in ("gpt-oss", "gpt_oss"):
        return
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "none")
    found = [
        tensor.name for tensor in header.tensors if tensor.name.startswith(("rope_freqs", "rope_factors"))
    ]
    if scaling != "none":
        found.append(f"{architecture}.rope.scaling.type = {scaling}")
    if found:
        raise CheckpointError(
            f"{file}: its rotary positions are scaled ({found[0]}), which transformers ignores in GGUF files "
            "(answers would be wrong); give a folder with the model's safetensors weights"
        )
