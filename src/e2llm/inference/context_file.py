"""Save a context as one safetensors file: states and texts as tensors, a manifest in the header.

The hash in the manifest detects accidental damage. Nothing in the file is code: a forged file can at worst
contain other texts and numbers.
"""

import hashlib
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from e2llm.chunking import Chunk, check_splitting
from e2llm.documents.document import Document, Places
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.inference.content import Content, Splitting, unknown_fractions
from e2llm.inference.reader import ChunkReader, ReadChunks
from e2llm.modeling.rates import check_rate
from e2llm.validation import CheckedModel

FORMAT = 2  # for models with a rate; others write and read format 1
_HEADER_KEY = "e2llm_context"
_Places = TypeAdapter(list[Places])
_MAX_HEADER_BYTES = 100_000_000  # safetensors refuses longer headers


def _check_splitting(splitting: Splitting) -> Splitting:
    check_splitting(splitting.chunk_size_chars, splitting.overlap_chars, splitting.kind)
    return splitting


class _SavedDocument(CheckedModel):
    """A document's name and length; the tensor `texts` has all texts, one after another."""

    name: str
    bytes: Annotated[int, Field(ge=0)]
    kind: Literal["prose", "code", "tokens"] | None
    heading: str


class _Stated(CheckedModel, extra="ignore"):
    """The manifest's format alone, which is read first."""

    format: Annotated[int, Field(ge=1)]


class _Manifest(_Stated, extra="ignore"):
    """The header of a saved context."""

    fingerprint: str
    text_sha256: str  # older versions check it; `tensors_sha256` covers the texts too
    documents: list[_SavedDocument]
    num_tokens: Annotated[int, Field(ge=0)]
    read_seconds: Annotated[float, Field(ge=0)]
    splitting: Annotated[Splitting, AfterValidator(_check_splitting)]
    finest_rate: Annotated[int, AfterValidator(check_rate)] | None = None
    tensors_sha256: str
    extra: dict[str, Any]


@dataclass(frozen=True)
class SavedContext:
    """The contents of a saved context.

    Attributes:
        content: Documents, chunks, and their states.
        splitting: How the documents are split.
        fingerprint: Of the model that read them.
        finest_rate: Encoder tokens per kept state; None for models without a rate.
        read_seconds: Time that reading took.
        extra: Plain values saved with it, such as a conversation.
    """

    content: Content
    splitting: Splitting
    fingerprint: str
    finest_rate: int | None
    read_seconds: float
    extra: dict[str, Any]


class _OtherModelError(E2LLMError):
    """The file is intact, but another model or a newer version made it."""


# --- saving -----------------------------------------------------------------------------------------------


def save_context(context: SavedContext, path: Path) -> None:
    """Write a context atomically."""
    content = context.content
    texts = [document.text.encode() for document in content.documents]
    rows = [
        (owner, chunk.start, chunk.end, count)
        for owner, chunk, count in zip(content.owners, content.chunks, content.token_counts, strict=True)
    ]
    tensors = {
        **_kept_tensors(content.read, context.finest_rate),
        **_place_tensors(content),
        "vectors": content.read.vectors.contiguous(),
        "chunks": torch.tensor(rows, dtype=torch.int64).reshape(-1, 4),
        "unknown": torch.tensor(content.unknown_fractions, dtype=torch.float32),
        "texts": torch.tensor(bytearray(b"".join(texts)), dtype=torch.uint8),
    }
    manifest = _Manifest(
        format=1 if context.finest_rate is None else FORMAT,
        fingerprint=context.fingerprint,
        text_sha256=hashlib.sha256(b"".join(texts)).hexdigest(),
        documents=[
            _SavedDocument.read(
                {"name": _storable(item.name), "bytes": len(text), "kind": item.kind, "heading": item.heading}
            )
            for item, text in zip(content.documents, texts, strict=True)
        ],
        num_tokens=content.num_tokens,
        read_seconds=context.read_seconds,
        splitting=context.splitting,
        finest_rate=context.finest_rate,
        tensors_sha256=_hash_tensors(tensors),
        extra=context.extra,
    )
    write_atomically(path, save(tensors, {_HEADER_KEY: manifest.model_dump_json()}))


def _storable(name: str) -> str:
    """Return a name without characters that UTF-8 cannot encode, which file names may contain."""
    return name.encode("utf-8", "replace").decode()


def _kept_tensors(read: ReadChunks, finest_rate: int | None) -> dict[str, torch.Tensor]:
    """Return the kept states as tensors: in format 2, rows `[R, S]` of all chunks and their token counts."""
    if finest_rate is None:
        return {"soft_tokens": read.kept.contiguous()}
    rows = torch.cat(read.rows) if read.rows else torch.empty(0, 0, dtype=torch.float16)
    return {"kept": rows.contiguous(), "num_tokens": read.num_tokens.contiguous()}


def _place_tensors(content: Content) -> dict[str, torch.Tensor]:
    """The places of the documents as JSON; nothing where no document has any."""
    places = [document.places for document in content.documents]
    if not any(places):
        return {}
    return {"places": torch.tensor(bytearray(_Places.dump_json(places)), dtype=torch.uint8)}


def _hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].contiguous().reshape(-1)
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- loading ----------------------------------------------------------------------------------------------


def saved_finest_rate(path: Path) -> int | None:
    """Return the finest rate of a saved context; None if it has none or is damaged."""
    try:
        return _read_manifest(path).finest_rate
    except (OSError, SafetensorError, ValueError):
        return None


def is_context_file(path: Path) -> bool:
    """Return whether a file's header is that of a saved context."""
    try:
        return is_tensor_file(path) and _read_header(path) is not None
    except (OSError, SafetensorError, ValueError):
        return False


def is_tensor_file(path: Path) -> bool:
    """Return whether a file begins like a safetensors file, even if it is cut short."""
    try:
        if not path.is_file() or not path.stat().st_size:  # opening a pipe or reading of /proc may wait
            return False
        with path.open("rb") as stream:
            size, start = struct.unpack("<Q", stream.read(8))[0], stream.read(2)
    except (OSError, struct.error):
        return False
    return start == b'{"' and 0 < size <= _MAX_HEADER_BYTES


def load_context(path: Path, reader: ChunkReader) -> SavedContext:
    """Read a saved context; verify its hash and the model's fingerprint.

    Raises:
        FileNotFoundError: If there is no such file.
        E2LLMError: If the file is damaged, has a newer format, or was made by another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such context file: {path}")
    try:
        manifest = _read_manifest(path)
        _check_model(manifest, reader)
        tensors = load_file(path)
        if _hash_tensors(tensors) != manifest.tensors_sha256:
            raise E2LLMError("the hash of the tensors is wrong")
        content = _content(manifest, tensors, reader)
    except _OtherModelError as error:
        raise E2LLMError(f"{path}: {error}") from error
    except (SafetensorError, ValueError, LookupError, RuntimeError) as error:
        raise E2LLMError(
            f"{path}: not a saved context, or damaged ({error}); read the documents again"
        ) from error
    return SavedContext(
        content,
        manifest.splitting,
        manifest.fingerprint,
        manifest.finest_rate,
        manifest.read_seconds,
        manifest.extra,
    )


def _check_model(manifest: _Manifest, reader: ChunkReader) -> None:
    """Raise `_OtherModelError` unless this engine's model read the context."""
    if manifest.fingerprint == reader.fingerprint:
        return
    saved, kept = manifest.finest_rate, reader.finest_rate
    if saved is not None and kept is not None and saved != kept:
        raise _OtherModelError(
            f"it keeps one state per {saved} encoder tokens, but this engine one per {kept}; load the "
            f"model with finest_rate={saved}, or read the documents again"
        )
    raise _OtherModelError(
        f"its states come from another model or precision (fingerprint {manifest.fingerprint[:12]}..., "
        f"this model's is {reader.fingerprint[:12]}...); load the model that read it, or read the "
        "documents again"
    )


def _read_header(path: Path) -> str | None:
    """Return the JSON text of a saved context's manifest; None for any other safetensors file."""
    with safe_open(path, framework="pt") as file:
        header: str | None = (file.metadata() or {}).get(_HEADER_KEY)
    return header


def _read_manifest(path: Path) -> _Manifest:
    header = _read_header(path)
    if header is None:
        raise E2LLMError("its tensors are not those of a context")
    stated = _Stated.read_json(header)
    if stated.format > FORMAT:
        raise _OtherModelError(
            f"context format {stated.format} is newer than this e2llm can read ({FORMAT}); upgrade e2llm"
        )
    return _Manifest.read_json(header)


def _content(manifest: _Manifest, tensors: dict[str, torch.Tensor], reader: ChunkReader) -> Content:
    """Rebuild the content from intact tensors."""
    data, rows = tensors["texts"].numpy().tobytes(), tensors["chunks"].tolist()
    if sum(item.bytes for item in manifest.documents) != len(data):
        raise E2LLMError("its documents do not match its text")
    all_places: list[Places] = [()] * len(manifest.documents)
    if "places" in tensors:
        all_places = _Places.validate_json(tensors["places"].numpy().tobytes())
    documents, start = [], 0
    for item, places in zip(manifest.documents, all_places, strict=True):
        text = data[start : start + item.bytes].decode()
        documents.append(Document(item.name, text, item.kind, item.heading, places))
        start += item.bytes
    chunks = [Chunk(start, end, documents[owner].text[start:end]) for owner, start, end, _ in rows]
    if manifest.finest_rate is None:
        num_tokens = torch.ones(len(chunks), dtype=torch.long)
        kept = tensors["soft_tokens"].unbind()
    else:
        num_tokens = tensors["num_tokens"]
        kept = torch.split(tensors["kept"], [reader.num_rows(length) for length in num_tokens.tolist()])
    read = ReadChunks([item.clone() for item in kept], num_tokens, tensors["vectors"])
    owners, counts = [row[0] for row in rows], [row[3] for row in rows]
    content = Content(tuple(documents), chunks, owners, counts, manifest.num_tokens, read)
    if "unknown" not in tensors:  # in a file of an older version
        shares = unknown_fractions(reader.processor, list(dict.fromkeys(content.texts)))
        return replace(content, unknown_fractions=[shares[text] for text in content.texts])
    if tensors["unknown"].shape != (len(chunks),):
        raise E2LLMError("its shares of unknown characters do not match its chunks")
    return replace(content, unknown_fractions=tensors["unknown"].tolist())
