"""A context as one safetensors file: tensors of what was read, the texts, and a manifest in the header."""

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from e2llm.chunking import Chunk, check_splitting
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.inference.content import Content, Splitting
from e2llm.inference.documents import Document
from e2llm.inference.reader import ChunkReader, ReadChunks
from e2llm.modeling.rates import check_rate
from e2llm.validation import CheckedModel

FORMAT = 2  # of models whose dial is the rate; the others write and read format 1
_HEADER_KEY = "e2llm_context"
# Chunks overlap and have headings; more text than this in them than in the documents is made to fill memory.
_MOST_REPEATS, _MOST_HEADING_CHARS = 64, 4096
_MAX_HEADER_BYTES = 100_000_000  # safetensors refuses longer ones
_TENSORS = {
    1: {"soft_tokens", "vectors", "chunks", "texts"},
    2: {"kept", "num_tokens", "vectors", "chunks", "texts"},
}


def _check_splitting(splitting: Splitting) -> Splitting:
    check_splitting(splitting.chunk_size_chars, splitting.overlap_chars, splitting.kind)
    return splitting


class _SavedDocument(CheckedModel):
    """A document, whose text follows that of the one before it in the tensor `texts`."""

    name: str
    bytes: Annotated[int, Field(ge=0)]
    kind: Literal["prose", "code", "tokens"] | None
    heading: str


class _Stated(CheckedModel, extra="ignore"):
    """The format that a manifest states."""

    format: Annotated[int, Field(ge=1)]


class _Manifest(_Stated, extra="ignore"):
    """What the header of a saved context states."""

    fingerprint: str
    text_sha256: str
    documents: list[_SavedDocument]
    num_tokens: Annotated[int, Field(ge=0)]
    read_seconds: Annotated[float, Field(ge=0)]
    splitting: Annotated[Splitting, AfterValidator(_check_splitting)]
    finest_rate: Annotated[int, AfterValidator(check_rate)] | None = None
    tensors_sha256: str
    extra: dict[str, Any]


@dataclass(frozen=True)
class SavedContext:
    """What a context's file holds.

    Attributes:
        content: Documents, chunks, and what was read of them.
        splitting: How the documents are split.
        fingerprint: Of the model that read them.
        finest_rate: Encoder tokens per kept state; None of models without a rate.
        read_seconds: Time that reading took.
        extra: Plain values saved beside it, such as a conversation.
    """

    content: Content
    splitting: Splitting
    fingerprint: str
    finest_rate: int | None
    read_seconds: float
    extra: dict[str, Any]


def save_context(context: SavedContext, path: Path) -> None:
    """Write a context, whole or not at all."""
    content = context.content
    texts = [document.text.encode() for document in content.documents]
    manifest: dict[str, Any] = {
        "format": 1 if context.finest_rate is None else 2,
        "fingerprint": context.fingerprint,
        "text_sha256": hashlib.sha256(b"".join(texts)).hexdigest(),
        "documents": [
            {"name": item.name, "bytes": len(text), "kind": item.kind, "heading": item.heading}
            for item, text in zip(content.documents, texts, strict=True)
        ],
        "num_tokens": content.num_tokens,
        "read_seconds": context.read_seconds,
        "splitting": vars(context.splitting),
    }
    rows = [
        (owner, chunk.start, chunk.end, count)
        for owner, chunk, count in zip(content.owners, content.chunks, content.token_counts, strict=True)
    ]
    tensors = {
        **_kept_tensors(content.read, context.finest_rate),
        "vectors": content.read.vectors.contiguous(),
        "chunks": torch.tensor(rows, dtype=torch.int64).reshape(-1, 4),
        "texts": torch.tensor(bytearray(b"".join(texts)), dtype=torch.uint8),
    }
    if context.finest_rate is not None:
        manifest["finest_rate"] = context.finest_rate
    manifest["tensors_sha256"] = _hash_tensors(tensors)
    manifest["extra"] = context.extra
    write_atomically(path, save(tensors, {_HEADER_KEY: json.dumps(manifest)}))


def _kept_tensors(read: ReadChunks, finest_rate: int | None) -> dict[str, torch.Tensor]:
    """What was kept: in format 2 the chunks' own rows `[R, S]`, one after the other, with their tokens."""
    if finest_rate is None:
        return {"soft_tokens": read.kept.contiguous()}
    rows = torch.cat(read.rows) if read.rows else torch.empty(0, 0, dtype=torch.float16)
    return {"kept": rows.contiguous(), "num_tokens": read.num_tokens.contiguous()}


def saved_finest_rate(path: Path) -> int | None:
    """Return the finest rate that a saved context keeps; None where it states none, or is damaged."""
    try:
        return _read_manifest(path).finest_rate
    except (OSError, SafetensorError, ValueError):
        return None


def _hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].contiguous().reshape(-1)
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_context_file(path: Path) -> bool:
    """Whether a file is a saved context, by its header."""
    try:
        return is_tensor_file(path) and _read_header(path) is not None
    except (OSError, SafetensorError, ValueError):
        return False


def is_tensor_file(path: Path) -> bool:
    """Whether a file begins as a saved context or any safetensors file does; it may be cut short."""
    try:
        with path.open("rb") as stream:
            size, start = struct.unpack("<Q", stream.read(8))[0], stream.read(2)
    except (OSError, struct.error):
        return False
    return start == b'{"' and 0 < size <= _MAX_HEADER_BYTES


def load_context(path: Path, reader: ChunkReader) -> SavedContext:
    """Read a saved context and check it against itself and the model of a reader.

    Raises:
        FileNotFoundError: If there is no such file.
        E2LLMError: If the file is damaged, of a newer format, or of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such context file: {path}")
    try:
        manifest = _read_manifest(path)
        _check_model(manifest, reader)
        names = _TENSORS[manifest.format]
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != names:
                raise E2LLMError(f"the tensors {sorted(file.keys())} are not those of a context")
            tensors = {name: file.get_tensor(name) for name in names}
        if _hash_tensors(tensors) != manifest.tensors_sha256:
            raise E2LLMError("the tensors do not have their stated hash")
        content = _content(manifest, tensors, reader)
    except _OtherModelError as error:
        raise E2LLMError(f"{path}: {error}") from error
    except (SafetensorError, ValueError) as error:
        raise E2LLMError(
            f"{path}: damaged or no saved context ({error}); read the documents again"
        ) from error
    return SavedContext(
        content,
        manifest.splitting,
        manifest.fingerprint,
        manifest.finest_rate,
        manifest.read_seconds,
        manifest.extra,
    )


class _OtherModelError(E2LLMError):
    """The file is sound, but another model or a newer version made it."""


def _check_model(manifest: _Manifest, reader: ChunkReader) -> None:
    """Raise unless this engine's model read the context."""
    if manifest.fingerprint == reader.fingerprint:
        return
    saved, kept = manifest.finest_rate, reader.finest_rate
    if saved is not None and kept is not None and saved != kept:
        raise _OtherModelError(
            f"it keeps one state per {saved} encoder tokens, this engine keeps one per {kept}; load the "
            f"model with finest_rate={saved}, or read the documents again"
        )
    raise _OtherModelError(
        f"what it keeps was made by another model or precision (fingerprint {manifest.fingerprint[:12]}..., "
        f"this model's is {reader.fingerprint[:12]}...); load the model that read it, or read the "
        "documents again"
    )


def _read_header(path: Path) -> str | None:
    """The JSON text of a saved context's manifest; None for another safetensors file."""
    with safe_open(path, framework="pt") as file:
        header: str | None = (file.metadata() or {}).get(_HEADER_KEY)
    return header


def _read_manifest(path: Path) -> _Manifest:
    header = _read_header(path)
    if header is None:
        raise E2LLMError("it holds tensors of another kind; save a context with Context.save")
    stated = _Stated.read_json(header)
    if stated.format > FORMAT:
        raise _OtherModelError(
            f"context format {stated.format} is newer than this e2llm reads ({FORMAT}); upgrade e2llm"
        )
    return _Manifest.read_json(header)


def _content(manifest: _Manifest, tensors: dict[str, torch.Tensor], reader: ChunkReader) -> Content:
    """The content that a file states, every claim checked."""
    data, rows = tensors["texts"].numpy().tobytes(), tensors["chunks"]
    if hashlib.sha256(data).hexdigest() != manifest.text_sha256:
        raise E2LLMError("the texts do not have their stated hash")
    if rows.dim() != 2 or rows.shape[1] != 4 or rows.dtype != torch.int64:
        raise E2LLMError(f"the tensor chunks has shape {list(rows.shape)} and {rows.dtype}")
    documents = _documents(manifest.documents, data)
    chunks = _chunks(rows.tolist(), documents)
    read = _read_chunks(tensors, reader, len(chunks))
    owners, counts = rows[:, 0].tolist(), rows[:, 3].tolist()
    return Content(tuple(documents), chunks, owners, counts, manifest.num_tokens, read)


def _read_chunks(tensors: dict[str, torch.Tensor], reader: ChunkReader, num_chunks: int) -> ReadChunks:
    """What was read of the chunks, its shapes, dtypes and values checked."""
    lengths = tensors.get("num_tokens", torch.ones(num_chunks, dtype=torch.long))
    if lengths.shape != (num_chunks,) or lengths.dtype != torch.int64 or bool((lengths < 1).any()):
        raise E2LLMError("the chunks' numbers of encoder tokens are wrong")
    counts = [reader.num_rows(length) for length in lengths.tolist()]
    kept = tensors["kept"] if "kept" in tensors else tensors["soft_tokens"]
    shape = (
        (sum(counts), reader.width) if "kept" in tensors else (num_chunks, reader.num_rows(1), reader.width)
    )
    vector_width = reader.model.config.encoder_config.hidden_size
    for got, wanted, dtype in (
        (kept, shape, reader.dtype),
        (tensors["vectors"], (num_chunks, vector_width), torch.float32),
    ):
        if tuple(got.shape) != wanted or got.dtype != dtype:
            if not num_chunks and not got.numel():
                continue  # a context without documents, whose tensors have no width
            raise E2LLMError(
                f"a tensor has shape {list(got.shape)} and {got.dtype}, expected {list(wanted)} and {dtype}"
            )
        if not got.isfinite().all():
            raise E2LLMError("a tensor contains NaN or infinity")
    pieces = torch.split(kept, counts) if "kept" in tensors else kept.unbind()
    rows = [item.clone() for item in pieces]
    return ReadChunks(rows, lengths, tensors["vectors"])


def _documents(stated: list[_SavedDocument], data: bytes) -> list[Document]:
    """The documents whose texts follow each other in `data`, to its end."""
    if sum(item.bytes for item in stated) != len(data):
        raise E2LLMError("the documents do not make up the texts")
    documents, at = [], 0
    for item in stated:
        text = data[at : at + item.bytes].decode()
        documents.append(Document(item.name, text, item.kind, item.heading))
        at += item.bytes
    return documents


def _chunks(rows: list[list[int]], documents: list[Document]) -> list[Chunk]:
    """The chunks of rows of owner, start, end and count: in order, within their documents, bounded."""
    before, total = (-1, 0, 0), 0
    for number, (owner, start, end, count) in enumerate(rows):
        if not 0 <= owner < len(documents) or not 0 <= start < end <= len(documents[owner].text):
            raise E2LLMError(f"chunk {number} is outside its document")
        is_next = start >= before[1] and end > before[2]
        if owner < before[0] or (owner == before[0] and not is_next) or count < 0:
            raise E2LLMError(f"chunk {number} is out of order")
        before = (owner, start, end)
        total += end - start + len(documents[owner].heading)
    if total > _MOST_REPEATS * sum(len(item.text) for item in documents) + _MOST_HEADING_CHARS * len(rows):
        raise E2LLMError("its chunks repeat far more text than they hold")
    return [Chunk(start, end, documents[owner].text[start:end]) for owner, start, end, _ in rows]
