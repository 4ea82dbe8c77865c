"""A context as one safetensors file: tensors of what was read, the texts, and a manifest in the header."""

import hashlib
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from e2llm.chunking import Chunk
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.inference.content import Content, Splitting
from e2llm.inference.context import Context
from e2llm.inference.documents import Document
from e2llm.inference.reader import ReadChunks

if TYPE_CHECKING:
    from e2llm.inference.engine import Engine

FORMAT = 1
SUFFIX = ".e2llm"
_HEADER_KEY = "e2llm_context"
_DAMAGE = (SafetensorError, KeyError, TypeError, IndexError, ValueError, OverflowError, AttributeError)
_TENSORS = {"soft_tokens", "vectors", "chunks", "texts"}


def save_context(context: Context, path: Path, extra: dict[str, Any]) -> None:
    """Write a context, whole or not at all.

    Raises:
        E2LLMError: If it was not read.
    """
    if not context.fingerprint:
        raise E2LLMError("this context was not read by an engine; there is nothing to save")
    content = context.content
    texts = [document.text.encode() for document in content.documents]
    manifest = {
        "format": FORMAT,
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
        "soft_tokens": content.read.soft_tokens.contiguous(),
        "vectors": content.read.vectors.contiguous(),
        "chunks": torch.tensor(rows, dtype=torch.int64).reshape(-1, 4),
        "texts": torch.tensor(bytearray(b"".join(texts)), dtype=torch.uint8),
    }
    manifest["tensors_sha256"] = _hash_tensors(tensors)
    manifest["extra"] = extra
    write_atomically(path, save(tensors, {_HEADER_KEY: json.dumps(manifest)}))


def _hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].contiguous().reshape(-1)
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_context_file(path: Path) -> bool:
    """Whether a file is a saved context, by its first bytes."""
    try:
        with path.open("rb") as stream:
            size, start = struct.unpack("<Q", stream.read(8))[0], stream.read(2)
            return start == b'{"' and 0 < size < path.stat().st_size and _read_manifest(path) is not None
    except (OSError, struct.error, SafetensorError):
        return False


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
        if manifest["format"] > FORMAT:
            raise E2LLMError(
                f"{path}: context format {manifest['format']} is newer than this e2llm reads ({FORMAT}); "
                "upgrade e2llm"
            )
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != _TENSORS:
                raise E2LLMError(f"{path}: the tensors {sorted(file.keys())} are not those of a context")
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        if manifest["fingerprint"] != engine.reader.fingerprint:
            raise E2LLMError(
                f"{path}: its soft tokens were made by another model or precision (fingerprint "
                f"{manifest['fingerprint'][:12]}..., this model's is {engine.reader.fingerprint[:12]}...); "
                "load the model that read it, or read the documents again"
            )
        if _hash_tensors(tensors) != manifest["tensors_sha256"]:
            raise E2LLMError(f"{path}: the tensors do not have their stated hash; the file is damaged")
        content = _content(path, manifest, tensors, engine)
        splitting = Splitting(**manifest["splitting"])
        seconds = float(manifest["read_seconds"])
        extra = dict(manifest["extra"])
    except _DAMAGE as error:
        if isinstance(error, E2LLMError):
            raise
        raise E2LLMError(
            f"{path}: damaged or no saved context ({error}); read the documents again"
        ) from error
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
    documents, at = [], 0
    for item in manifest["documents"]:
        text = data[at : at + item["bytes"]].decode()
        documents.append(Document(str(item["name"]), text, item["kind"], str(item["heading"])))
        at += item["bytes"]
    chunks: list[Chunk] = []
    owners, counts = [], []
    for owner, start, end, count in tensors["chunks"].tolist():
        if not 0 <= start < end <= len(documents[owner].text) or owner < 0:
            raise E2LLMError(f"{path}: chunk {len(chunks)} lies outside its document; the file is damaged")
        chunks.append(Chunk(start, end, documents[owner].text[start:end]))
        owners.append(owner)
        counts.append(count)
    read = ReadChunks(tensors["soft_tokens"], tensors["vectors"])
    expected = engine.reader.empty(len(chunks))
    for got, want in ((read.soft_tokens, expected.soft_tokens), (read.vectors, expected.vectors)):
        if got.shape != want.shape or got.dtype != want.dtype:
            raise E2LLMError(
                f"{path}: a tensor has shape {list(got.shape)} and {got.dtype}, expected "
                f"{list(want.shape)} and {want.dtype}; the file is damaged"
            )
    return Content(tuple(documents), chunks, owners, counts, int(manifest["num_tokens"]), read)
