"""What a context holds at one moment, and how it is made: split, look up what is known, read the rest."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch

from e2llm.chunking import Chunk
from e2llm.errors import E2LLMError
from e2llm.inference.documents import Document
from e2llm.inference.reader import ChunkReader, ReadChunks
from e2llm.modeling.bm25 import Bm25Index
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.store.chunk_store import ChunkStore

_STORE_BATCH = 256
_COUNT_BATCH = 1024


@dataclass(frozen=True, eq=False)
class Content:
    """Documents, their chunks, and what was read of them.

    Attributes:
        documents: In order; one may be empty.
        chunks: The chunks of all documents in order; spans count within each chunk's document.
        owners: Place in `documents` of each chunk's document.
        token_counts: Decoder tokens of each chunk's text with its heading.
        num_tokens: Decoder tokens of all chunks, what they repeat of each other not counted.
        read: What is kept of the chunks, and their vectors.
        num_encoded: Chunks that the encoder read to make this content; the others were known.
    """

    documents: tuple[Document, ...]
    chunks: list[Chunk]
    owners: list[int]
    token_counts: list[int]
    num_tokens: int
    read: ReadChunks
    num_encoded: int = 0

    @cached_property
    def texts(self) -> list[str]:
        """What the encoder reads of each chunk: its text, with its document's heading before it."""
        return [
            self.documents[owner].heading + chunk.text
            for chunk, owner in zip(self.chunks, self.owners, strict=True)
        ]

    @cached_property
    def sources(self) -> list[str]:
        """Name of each chunk's document."""
        return [self.documents[owner].name for owner in self.owners]

    def check_chunk(self, index: int) -> int:
        """Return the index of a chunk; raises `E2LLMError` if there is no chunk of that index."""
        if type(index) is not int or not 0 <= index < len(self.chunks):
            raise E2LLMError(
                f"chunk {index!r} does not exist; the context has chunks 0 to {len(self.chunks) - 1}"
            )
        return index

    @cached_property
    def bm25(self) -> Bm25Index:
        """The chunks as passages to be ranked."""
        return Bm25Index(self.texts)


@dataclass(frozen=True)
class Splitting:
    """How documents are split; an edited context is split as it was.

    Attributes:
        chunk_size_chars: Longest chunk in characters.
        overlap_chars: Characters that a chunk repeats of the one before it.
        kind: `prose`, `code` or `tokens`, for documents that do not say.
    """

    chunk_size_chars: int
    overlap_chars: int
    kind: str

    @classmethod
    def of(cls, processor: E2LLMProcessor, chunk_size_chars: int | None = None) -> "Splitting":
        """As a processor splits, with chunks of another size if one is given."""
        size = processor.chunk_size_chars if chunk_size_chars is None else chunk_size_chars
        return cls(size, processor.overlap_chars, processor.chunk_kind)


def read_content(
    documents: Sequence[Document],
    splitting: Splitting,
    reader: ChunkReader,
    *,
    known: Content | None = None,
    store: ChunkStore | None = None,
    progress: bool | None = None,
) -> Content:
    """Make the content of some documents.

    Args:
        documents: At least one with text.
        splitting: How to split them.
        reader: Reads the chunks that are not known.
        known: An earlier content of the same reader: its chunks are not read again.
        store: Where read chunks are looked up and kept.
        progress: Show a bar; by default on a terminal when there is much to read.

    Raises:
        E2LLMError: If there is no text.
    """
    with reader.lock:
        documents = [_fit_heading(item, reader.processor) for item in documents]
    rows = {text: row for row, text in enumerate(known.texts)} if known is not None else {}
    chunks: list[Chunk] = []
    owners: list[int] = []
    for owner, document in enumerate(documents):
        with reader.lock:
            pieces = _split(document, splitting, reader.processor, rows)
        chunks += pieces
        owners += [owner] * len(pieces)
    if not any(chunk.text.strip() for chunk in chunks):
        raise E2LLMError("the context is empty; give a text to read")
    texts = [documents[owner].heading + chunk.text for chunk, owner in zip(chunks, owners, strict=True)]
    unknown = list(dict.fromkeys(text for text in texts if text not in rows))
    fresh, num_encoded = look_up_or_read(unknown, reader, store, progress)
    places = {text: place for place, text in enumerate(unknown)}
    read = _gather(texts, rows, known, places, fresh, reader)
    with reader.lock:
        counts = count_tokens(reader.processor, unknown)
        if known is not None:
            counts.update(zip(known.texts, known.token_counts, strict=True))
        token_counts = [counts[text] for text in texts]
        repeats = Counter(_repeated_texts(documents, chunks, owners))
        lengths = count_tokens(reader.processor, list(repeats))
        repeated = sum(lengths[text] * times for text, times in repeats.items())
    num_tokens = sum(token_counts) - repeated
    return Content(tuple(documents), chunks, owners, token_counts, num_tokens, read, num_encoded)


def join_contents(contents: Sequence[Content], empty: Content) -> Content:
    """One content of several, in their order; each chunk stays as it is.

    Args:
        contents: Made by the same reader.
        empty: What to give where there are none.
    """
    if len(contents) < 2:
        return contents[0] if contents else empty
    firsts = [0, *accumulate(len(item.documents) for item in contents)]
    read = ReadChunks.join([item.read for item in contents])
    return Content(
        tuple(document for item in contents for document in item.documents),
        [chunk for item in contents for chunk in item.chunks],
        [owner + first for first, item in zip(firsts, contents, strict=False) for owner in item.owners],
        [count for item in contents for count in item.token_counts],
        sum(item.num_tokens for item in contents),
        read,
        sum(item.num_encoded for item in contents),
    )


def count_tokens(processor: E2LLMProcessor, texts: list[str]) -> dict[str, int]:
    """Decoder tokens of each of different texts, encoded some at a time to keep memory constant."""
    counts: dict[str, int] = {}
    for start in range(0, len(texts), _COUNT_BATCH):
        batch = texts[start : start + _COUNT_BATCH]
        counts.update(zip(batch, map(len, processor.encode_all(batch)), strict=True))
    return counts


def chunk_texts(document: Document, splitting: Splitting, processor: E2LLMProcessor) -> list[str]:
    """What the encoder reads of each chunk of a document, split as `read_content` splits it."""
    document = _fit_heading(document, processor)
    return [document.heading + chunk.text for chunk in _split(document, splitting, processor, {})]


def _fit_heading(document: Document, processor: E2LLMProcessor) -> Document:
    """The document with a heading that leaves room for text in a chunk."""
    return (
        replace(document, heading=processor.fit_heading(document.heading)) if document.heading else document
    )


def _split(
    document: Document, splitting: Splitting, processor: E2LLMProcessor, fitting: dict[str, int]
) -> list[Chunk]:
    if not document.text:
        return []
    return processor.split(
        document.text,
        splitting.chunk_size_chars,
        overlap_chars=splitting.overlap_chars,
        kind=document.kind or splitting.kind,
        heading=document.heading,
        fitting=fitting,
    )


def _repeated_texts(documents: Sequence[Document], chunks: list[Chunk], owners: list[int]) -> list[str]:
    """What chunks repeat of the chunk before: overlaps, and headings after a document's first chunk."""
    repeated = []
    for before, after in zip(range(len(chunks) - 1), range(1, len(chunks)), strict=True):
        if owners[before] == owners[after]:
            heading = documents[owners[after]].heading
            overlap = chunks[before].end - chunks[after].start
            repeated.append(heading + chunks[after].text[: max(0, overlap)])
    return [text for text in repeated if text]


def look_up_or_read(
    texts: list[str], reader: ChunkReader, store: ChunkStore | None, progress: bool | None
) -> tuple[ReadChunks, int]:
    """Return what is kept of different texts, and how many of them the encoder read.

    Args:
        texts: C texts that each fit the encoder.
        reader: Reads the texts that the store lacks.
        store: Where read texts are looked up and kept.
        progress: Show a bar; by default on a terminal when there is much to read.
    """
    if store is None or not texts:
        return reader.read(texts, progress=progress), len(texts)
    fingerprint = reader.fingerprint
    keys = [chunk_key(fingerprint, text) for text in texts]
    result = reader.empty(len(texts))
    missing = []
    for start in range(0, len(keys), _STORE_BATCH):
        batch = keys[start : start + _STORE_BATCH]
        found = store.get_many(batch)
        for place, key in enumerate(batch, start):
            entry = found.get(key)
            if entry is None or not fits_entry(entry, reader):
                missing.append(place)
                continue
            from_entry(entry, result, place)
    waiting: dict[bytes, dict[str, torch.Tensor]] = {}

    def keep(places: list[int], read: ReadChunks, least: int = _STORE_BATCH) -> None:
        for place in places:
            waiting[keys[missing[place]]] = to_entry(read, place, reader)
        if len(waiting) >= least:
            store.put_many(waiting)
            waiting.clear()

    read = reader.read([texts[place] for place in missing], progress=progress, on_read=keep)
    if waiting:
        keep([], read, least=1)
    result.put(missing, read, range(len(missing)))
    return result, len(missing)


def _gather(
    texts: list[str],
    rows: dict[str, int],
    known: Content | None,
    places: dict[str, int],
    fresh: ReadChunks,
    reader: ChunkReader,
) -> ReadChunks:
    """The chunks in order, from what was known and what is fresh."""
    if known is None and len(places) == len(texts):
        return fresh  # all different and all new: already in order
    result = reader.empty(len(texts))
    pairs: list[tuple[list[int], list[int], ReadChunks]] = []
    if known is not None:
        at = [index for index, text in enumerate(texts) if text in rows]
        pairs.append((at, [rows[texts[index]] for index in at], known.read))
    at = [index for index, text in enumerate(texts) if text not in rows]
    pairs.append((at, [places[texts[index]] for index in at], fresh))
    for targets, origins, read in pairs:
        result.put(targets, read, origins)
    return result


def chunk_key(fingerprint: str, text: str) -> bytes:
    """The key of a chunk in a store: 32 bytes over who read it and what it says."""
    return hashlib.sha256(fingerprint.encode() + b"\0" + text.encode()).digest()


def to_entry(read: ReadChunks, place: int, reader: ChunkReader) -> dict[str, torch.Tensor]:
    """Return the entry of a chunk that was read."""
    vector = read.vectors[place].clone()
    if reader.model.adapter.dial == "rate":
        return {
            "kept": read.rows[place],
            "num_tokens": read.num_tokens[place].clone(),
            "vector": vector,
        }
    return {"soft_tokens": read.rows[place], "vector": vector}


def from_entry(entry: dict[str, torch.Tensor], result: ReadChunks, place: int) -> None:
    """Put an entry that fits in its place."""
    result.rows[place] = entry["kept"] if "kept" in entry else entry["soft_tokens"]
    result.vectors[place] = entry["vector"]
    if "num_tokens" in entry:
        result.num_tokens[place] = entry["num_tokens"]


def fits_entry(entry: dict[str, torch.Tensor], reader: ChunkReader) -> bool:
    """Whether a stored entry has the names, shapes and dtypes that the model makes."""
    has_rate = reader.model.adapter.dial == "rate"
    name = "kept" if has_rate else "soft_tokens"
    if entry.keys() != {name, "vector", *(["num_tokens"] if has_rate else [])}:
        return False
    num_tokens = 1
    if has_rate:
        number = entry["num_tokens"]
        if number.shape != () or number.dtype != torch.int64 or number < 1:
            return False
        num_tokens = int(number)
    rows, vector = entry[name], entry["vector"]
    return (
        rows.shape == (reader.num_rows(num_tokens), reader.width)
        and rows.dtype == reader.dtype
        and vector.shape == (reader.model.config.encoder_config.hidden_size,)
        and vector.dtype == torch.float32
    )
