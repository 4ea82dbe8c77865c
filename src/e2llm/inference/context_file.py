"""A context as one safetensors file: tensors of what was read, the texts, and a manifest in the header."""

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from e2llm.chunking import CHUNKERS, Chunk, check_splitting
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.inference.content import Content, Splitting
from e2llm.inference.context import Context
from e2llm.inference.documents import Document
from e2llm.inference.reader import ReadChunks
from e2llm.surrogates import reject_lone_surrogates

if TYPE_CHECKING:
    from e2llm.inference.engine import Engine

FORMAT = 2  # of models whose dial is the rate; the others write and read format 1
_HEADER_KEY = "e2llm_context"
_DAMAGE = (
    SafetensorError, KeyError, TypeError, IndexError, ValueError, OverflowError, AttributeError,
    RecursionError,
)  # fmt: skip
# Chunks overlap and have headings; more text than this in them than in the documents is made to fill memory.
_MOST_REPEATS, _MOST_HEADING_CHARS = 64, 4096
_MAX_HEADER_BYTES = 100_000_000  # safetensors refuses longer ones
_TENSORS = {
    1: {"soft_tokens", "vectors", "chunks", "texts"},
    2: {"kept", "num_tokens", "vectors", "chunks", "texts"},
}


def save_context(context: Context, path: Path, extra: dict[str, Any]) -> None:
    """Write a context, whole or not at all.

    Raises:
        E2LLMError: If it was not read.
    """
    if not context.fingerprint:
        raise E2LLMError("this context was not read by an engine; there is nothing to save")
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
    manifest["extra"] = extra
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
        manifest = _read_manifest(path) or {}
    except (OSError, *_DAMAGE):
        return None
    rate = manifest.get("finest_rate")
    return rate if type(rate) is int and rate >= 1 and not rate & (rate - 1) else None


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
        return is_tensor_file(path) and _read_manifest(path) is not None
    except (OSError, *_DAMAGE):
        return False


def is_tensor_file(path: Path) -> bool:
    """Whether a file begins as a saved context or any safetensors file does; it may be cut short."""
    try:
        with path.open("rb") as stream:
            size, start = struct.unpack("<Q", stream.read(8))[0], stream.read(2)
    except (OSError, struct.error):
        return False
    return start == b'{"' and 0 < size <= _MAX_HEADER_BYTES


def load_context(path: Path, engine: "Engine") -> tuple[Context, dict[str, Any]]:
    """Read a saved context and check it against itself and the model.

    Raises:
        FileNotFoundError: If there is no such file.
        E2LLMError: If the file is damaged, of a newer format, or of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such context file: {path}")
    try:
        manifest = _read_manifest(path)
        if manifest is None:
            raise E2LLMError(f"{path}: a safetensors file, but no saved context; save one with Context.save")
        if type(manifest["format"]) is not int or manifest["format"] < 1:
            raise ValueError(f"its format is {manifest['format']!r}")
        if manifest["format"] > FORMAT:
            raise E2LLMError(
                f"{path}: context format {manifest['format']} is newer than this e2llm reads ({FORMAT}); "
                "upgrade e2llm"
            )
        with safe_open(path, framework="pt") as file:
            names = _TENSORS[manifest["format"]]
            if set(file.keys()) != names:
                raise E2LLMError(f"{path}: the tensors {sorted(file.keys())} are not those of a context")
            tensors = {name: file.get_tensor(name) for name in names}
        if manifest["fingerprint"] != engine.reader.fingerprint:
            saved, kept = saved_finest_rate(path), engine.reader.finest_rate
            if saved is not None and kept is not None and saved != kept:
                raise E2LLMError(
                    f"{path}: it keeps one state per {saved} encoder tokens, this engine keeps one per "
                    f"{kept}; load the model with finest_rate={saved}, or read the documents again"
                )
            raise E2LLMError(
                f"{path}: what it keeps was made by another model or precision (fingerprint "
                f"{manifest['fingerprint'][:12]}..., this model's is {engine.reader.fingerprint[:12]}...); "
                "load the model that read it, or read the documents again"
            )
        if _hash_tensors(tensors) != manifest["tensors_sha256"]:
            raise E2LLMError(f"{path}: the tensors do not have their stated hash; the file is damaged")
        content = _content(path, manifest, tensors, engine)
        splitting = Splitting(**manifest["splitting"])
        check_splitting(splitting.chunk_size_chars, splitting.overlap_chars, splitting.kind)
        seconds = float(manifest["read_seconds"])
        if not 0 <= seconds < math.inf:
            raise ValueError(f"its reading took {seconds} seconds")
        extra = dict(manifest["extra"])
    except _DAMAGE as error:
        if isinstance(error, E2LLMError) and str(error).startswith(str(path)):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise E2LLMError(f"{path}: damaged or no saved context ({what}); read the documents again") from error
    return engine.bind(content, splitting, seconds), extra


def _read_manifest(path: Path) -> dict[str, Any] | None:
    with safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get(_HEADER_KEY)
    try:
        manifest = None if header is None else json.loads(header)
    except json.JSONDecodeError as error:
        raise SafetensorError(f"the manifest is not JSON: {error}") from error
    return manifest if isinstance(manifest, dict) else None


def _content(
    path: Path, manifest: dict[str, Any], tensors: dict[str, torch.Tensor], engine: "Engine"
) -> Content:
    """The content that a file states, every claim checked."""
    data = tensors["texts"].numpy().tobytes()
    if hashlib.sha256(data).hexdigest() != manifest["text_sha256"]:
        raise E2LLMError(f"{path}: the texts do not have their stated hash; the file is damaged")
    documents = _documents(manifest, data)
    rows = tensors["chunks"].tolist()
    chunks = _chunks(path, rows, documents)
    read = _read_chunks(path, tensors, engine, len(chunks))
    num_tokens = int(manifest["num_tokens"])
    if num_tokens < 0:
        raise ValueError(f"it states {num_tokens} tokens")
    owners, counts = [row[0] for row in rows], [row[3] for row in rows]
    return Content(tuple(documents), chunks, owners, counts, num_tokens, read)


def _read_chunks(
    path: Path, tensors: dict[str, torch.Tensor], engine: "Engine", num_chunks: int
) -> ReadChunks:
    """What was read of the chunks, its shapes, dtypes and values checked."""
    reader = engine.reader
    lengths = tensors.get("num_tokens", torch.ones(num_chunks, dtype=torch.long))
    if lengths.shape != (num_chunks,) or lengths.dtype != torch.int64 or bool((lengths < 1).any()):
        raise E2LLMError(f"{path}: the chunks' numbers of encoder tokens are wrong; the file is damaged")
    counts = [reader.num_rows(length) for length in lengths.tolist()]
    kept = tensors["kept"] if "kept" in tensors else tensors["soft_tokens"]
    shape = (
        (sum(counts), reader.width) if "kept" in tensors else (num_chunks, reader.num_rows(1), reader.width)
    )
    vector_width = engine.model.config.encoder_config.hidden_size
    for got, wanted, dtype in (
        (kept, shape, reader.dtype),
        (tensors["vectors"], (num_chunks, vector_width), torch.float32),
    ):
        if tuple(got.shape) != wanted or got.dtype != dtype:
            if not num_chunks and not got.numel():
                continue  # a context without documents, whose tensors have no width
            raise E2LLMError(
                f"{path}: a tensor has shape {list(got.shape)} and {got.dtype}, expected "
                f"{list(wanted)} and {dtype}; the file is damaged"
            )
        if not got.isfinite().all():
            raise E2LLMError(f"{path}: a tensor contains NaN or infinity; read the documents again")
    pieces = torch.split(kept, counts) if "kept" in tensors else kept.unbind()
    rows = [item.clone() for item in pieces]
    return ReadChunks(rows, lengths, tensors["vectors"])


def _documents(manifest: dict[str, Any], data: bytes) -> list[Document]:
    """The documents whose texts follow each other in `data`, to its end."""
    documents, at = [], 0
    for item in manifest["documents"]:
        size, kind = item["bytes"], item["kind"]
        if type(size) is not int or not 0 <= size <= len(data) - at:
            raise ValueError(f"a document of {size!r} bytes")
        if kind is not None and kind not in CHUNKERS:
            raise ValueError(f"a document of kind {kind!r}")
        reject_lone_surrogates(str(item["heading"]), "heading")
        text = data[at : at + size].decode()
        documents.append(Document(str(item["name"]), text, kind, str(item["heading"])))
        at += size
    if at != len(data):
        raise ValueError("texts that belong to no document")
    return documents


def _chunks(path: Path, rows: list[list[int]], documents: list[Document]) -> list[Chunk]:
    """The chunks of rows of owner, start, end and count: in order, within their documents, bounded."""
    chunks: list[Chunk] = []
    before, total = (-1, 0, 0), 0
    for owner, start, end, count in rows:
        if not 0 <= owner < len(documents) or not 0 <= start < end <= len(documents[owner].text):
            raise E2LLMError(f"{path}: chunk {len(chunks)} lies outside its document; the file is damaged")
        is_next = start >= before[1] and end > before[2]
        if owner < before[0] or (owner == before[0] and not is_next) or count < 0:
            raise E2LLMError(f"{path}: chunk {len(chunks)} is out of order; the file is damaged")
        before = (owner, start, end)
        total += end - start + len(documents[owner].heading)
        chunks.append(Chunk(start, end, ""))
    if total > _MOST_REPEATS * sum(len(item.text) for item in documents) + _MOST_HEADING_CHARS * len(rows):
        raise E2LLMError(f"{path}: its chunks repeat far more text than they hold; the file is damaged")
    return [
        Chunk(item.start, item.end, documents[row[0]].text[item.start : item.end])
        for item, row in zip(chunks, rows, strict=True)
    ]
