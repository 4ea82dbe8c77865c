"""Make the content of a context: split documents, look up known chunks, and encode the others."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch

from e2llm.chunking import Chunk, split_text
from e2llm.documents import Document
from e2llm.errors import E2LLMError, E2LLMWarning
from e2llm.inference.reader import ChunkReader, ReadChunks
from e2llm.modeling.bm25 import Bm25Index
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.store.chunk_store import ChunkStore

_STORE_BATCH = 256
_COUNT_BATCH = 1024
_MOST_UNKNOWN = 1 / 3  # of a chunk's characters; chosen here


@dataclass(frozen=True, eq=False)
class Content:
    """Documents, their chunks, and the kept states of these chunks.

    Attributes:
        documents: In order; one may be empty.
        chunks: The chunks of all documents in order; spans count within each chunk's document.
        owners: Place in `documents` of each chunk's document.
        token_counts: Decoder tokens of each chunk's text with its heading.
        num_tokens: Decoder tokens of all chunks, without the text that chunks repeat.
        read: The states and vectors of the chunks.
        num_encoded: Chunks that had to be encoded for this content; the others were known.
        unknown_fractions: Of each chunk, the share of characters that the encoder's vocabulary lacks, 0 to 1.
    """

    documents: tuple[Document, ...]
    chunks: list[Chunk]
    owners: list[int]
    token_counts: list[int]
    num_tokens: int
    read: ReadChunks
    num_encoded: int = 0
    unknown_fractions: list[float] = field(default_factory=list)

    @cached_property
    def unreadable(self) -> frozenset[int]:
        """Chunks of which the encoder does not know over a third, so that soft tokens say little of them."""
        return frozenset(index for index, share in enumerate(self.unknown_fractions) if share > _MOST_UNKNOWN)

    @cached_property
    def unknown_fraction(self) -> float:
        """The share of all characters that the encoder's vocabulary lacks, 0 to 1."""
        sizes = [len(text) for text in self.texts]
        lacking = sum(size * share for size, share in zip(sizes, self.unknown_fractions, strict=False))
        return round(lacking / max(1, sum(sizes)), 4)

    @cached_property
    def texts(self) -> list[str]:
        """The text that the encoder reads for each chunk: the document's heading and the chunk's text."""
        return [
            self.documents[owner].heading + chunk.text
            for chunk, owner in zip(self.chunks, self.owners, strict=True)
        ]

    @cached_property
    def sources(self) -> list[str]:
        """Name of each chunk's document."""
        return [self.documents[owner].name for owner in self.owners]

    def check_chunk(self, index: int) -> int:
        """Return the index of a chunk; raise `E2LLMError` if no such chunk exists."""
        if type(index) is not int or not 0 <= index < len(self.chunks):
            present = f"chunks 0 to {len(self.chunks) - 1}" if self.chunks else "no chunks"
            raise E2LLMError(f"chunk {index!r} does not exist; the context has {present}")
        return index

    @cached_property
    def bm25(self) -> Bm25Index:
        """An index of the chunks for ranking by shared words."""
        return Bm25Index(self.texts)


@dataclass(frozen=True)
class Splitting:
    """Settings for splitting documents, which a context keeps for later edits.

    Attributes:
        chunk_size_chars: Most characters per chunk.
        overlap_chars: Characters that a chunk repeats from the previous one.
        kind: `prose`, `code` or `tokens`, for documents without a kind.
    """

    chunk_size_chars: int
    overlap_chars: int
    kind: str

    @classmethod
    def of(cls, processor: E2LLMProcessor, chunk_size_chars: int | None = None) -> "Splitting":
        """Return a processor's settings, with another chunk size if one is given."""
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
    """Return the content of documents; encode only the chunks that are not known.

    Args:
        documents: Documents; those without text have no chunks.
        splitting: How to split them.
        reader: Encodes the chunks that are not known.
        known: Earlier content of the same reader, whose chunks need not be encoded again.
        store: Where read chunks are looked up and kept.
        progress: Show a bar; by default on a terminal when there is much to read.
    """
    with reader.lock:
        documents = [_fit_heading(item, reader.processor) for item in documents]
    known_texts = [] if known is None else known.texts
    known_set = set(known_texts)
    chunks: list[Chunk] = []
    owners: list[int] = []
    for owner, document in enumerate(documents):
        with reader.lock:
            pieces = _split(document, splitting, reader.processor, known_set)
        chunks += pieces
        owners += [owner] * len(pieces)
    texts = [documents[owner].heading + chunk.text for chunk, owner in zip(chunks, owners, strict=True)]
    unknown = list(dict.fromkeys(text for text in texts if text not in known_set))
    read, num_encoded = look_up_or_read(unknown, reader, store, progress)
    if known is not None:
        read = ReadChunks.join([known.read, read])
    places = {text: place for place, text in enumerate([*known_texts, *unknown])}
    with reader.lock:
        counts = count_tokens(reader.processor, unknown)
        shares = unknown_fractions(reader.processor, unknown)
        _warn_of_unknown(shares)
        if known is not None:
            counts.update(zip(known_texts, known.token_counts, strict=True))
            shares.update(zip(known_texts, known.unknown_fractions, strict=True))
        repeats = Counter(_repeated_texts(documents, chunks, owners))
        lengths = count_tokens(reader.processor, list(repeats))
    token_counts = [counts[text] for text in texts]
    num_tokens = sum(token_counts) - sum(lengths[text] * times for text, times in repeats.items())
    read = read.select([places[text] for text in texts])
    unknown_shares = [shares[text] for text in texts]
    return Content(
        tuple(documents), chunks, owners, token_counts, num_tokens, read, num_encoded, unknown_shares
    )


def join_contents(contents: Sequence[Content], empty: Content) -> Content:
    """Join several contents in their order, without splitting or encoding again.

    Args:
        contents: Made by the same reader.
        empty: Returned if there are no contents.
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
        [share for item in contents for share in item.unknown_fractions],
    )


def count_tokens(processor: E2LLMProcessor, texts: list[str]) -> dict[str, int]:
    """Return the number of decoder tokens of each text; work in blocks to bound memory."""
    counts: dict[str, int] = {}
    for start in range(0, len(texts), _COUNT_BATCH):
        batch = texts[start : start + _COUNT_BATCH]
        counts.update(zip(batch, map(len, processor.encode_all(batch)), strict=True))
    return counts


def unknown_fractions(processor: E2LLMProcessor, texts: Sequence[str]) -> dict[str, float]:
    """Return of each text the share of characters that become the encoder's unknown token, without spaces."""
    tokenizer, shares = processor.encoder_tokenizer, dict.fromkeys(texts, 0.0)
    unknown = tokenizer.unk_token_id if getattr(tokenizer, "is_fast", False) else None
    for start in range(0, 0 if unknown is None else len(texts), _COUNT_BATCH):
        batch = list(texts[start : start + _COUNT_BATCH])
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        for text, ids, offsets in zip(batch, encoded.input_ids, encoded.offset_mapping, strict=True):
            if unknown in ids:
                spans = (
                    text[slice(*span)] for item, span in zip(ids, offsets, strict=True) if item == unknown
                )
                lacking = "".join("".join(spans).split())
                shares[text] = len(lacking) / max(1, len("".join(text.split())))
    return shares


def _warn_of_unknown(shares: dict[str, float]) -> None:
    """Warn once of a reading whose chunks the encoder mostly does not know."""
    found = [share for share in shares.values() if share > _MOST_UNKNOWN]
    if found:
        warnings.warn(
            f"the encoder does not know {100 * sum(found) / len(found):.0f}% of the characters of "
            f"{len(found):,} of {len(shares):,} chunks read, so their soft tokens say little of them; give "
            "them as text (expand, or policy='raw'), or use a model whose encoder knows their script",
            E2LLMWarning,
            stacklevel=2,
        )


def chunk_texts(document: Document, splitting: Splitting, processor: E2LLMProcessor) -> list[str]:
    """Return the text that the encoder reads for each chunk of a document, as `read_content` splits it."""
    document = _fit_heading(document, processor)
    return [document.heading + chunk.text for chunk in _split(document, splitting, processor, ())]


def _fit_heading(document: Document, processor: E2LLMProcessor) -> Document:
    """Return the document with its heading shortened so that a chunk has room for text."""
    return (
        replace(document, heading=processor.fit_heading(document.heading)) if document.heading else document
    )


def _split(
    document: Document, splitting: Splitting, processor: E2LLMProcessor, fitting: Container[str]
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


def note_on_limit(content: Content, splitting: Splitting, processor: E2LLMProcessor) -> str | None:
    """Return a note if the encoder's limit, not the chunk size that was asked for, sets the chunks' size."""
    asked = splitting.chunk_size_chars
    longest = max((chunk.end - chunk.start for chunk in content.chunks), default=0)
    by_size = (
        len(split_text(document.text, asked, splitting.overlap_chars, document.kind or splitting.kind))
        for document in content.documents
    )
    if longest >= asked or sum(by_size) >= len(content.chunks):
        return None
    return (
        f"chunks of {asked:,} characters were requested, but the encoder reads at most "
        f"{processor.max_chunk_tokens:,} tokens at once: the longest chunk has {longest:,} characters"
    )


def _repeated_texts(documents: Sequence[Document], chunks: list[Chunk], owners: list[int]) -> list[str]:
    """Return the text that chunks repeat: overlaps, and headings after a document's first chunk."""
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
    """Return the kept states of distinct texts, and how many of them had to be encoded.

    Args:
        texts: C texts that each fit the encoder.
        reader: Reads the texts that the store lacks.
        store: Where read texts are looked up and kept.
        progress: Show a bar; by default on a terminal when there is much to read.
    """
    if store is None or not texts:
        return reader.read(texts, progress=progress), len(texts)
    fingerprint, has_rate = reader.fingerprint, reader.finest_rate is not None
    keys = [chunk_key(fingerprint, text) for text in texts]
    result, missing = reader.empty(len(texts)), []
    for start in range(0, len(keys), _STORE_BATCH):
        batch = keys[start : start + _STORE_BATCH]
        found = store.look_up(batch)
        for place, key in enumerate(batch, start):
            if key in found:
                _put_entry(found[key], result, place)
            else:
                missing.append(place)
    waiting: dict[bytes, dict[str, torch.Tensor]] = {}

    def keep(places: list[int], read: ReadChunks) -> None:
        waiting.update((keys[missing[place]], _entry_of(read, place, has_rate)) for place in places)
        if len(waiting) >= _STORE_BATCH:
            store.keep(waiting)
            waiting.clear()

    read = reader.read([texts[place] for place in missing], progress=progress, on_read=keep)
    if waiting:
        store.keep(waiting)
    result.put(missing, read, range(len(missing)))
    return result, len(missing)


def chunk_key(fingerprint: str, text: str) -> bytes:
    """Return a chunk's key in a store: 32 bytes, a hash of the model's fingerprint and the text."""
    return hashlib.sha256(fingerprint.encode() + b"\0" + text.encode()).digest()


def _entry_of(read: ReadChunks, place: int, has_rate: bool) -> dict[str, torch.Tensor]:
    """Return a store's entry for an encoded chunk."""
    vector = read.vectors[place].clone()
    if has_rate:
        return {"kept": read.rows[place], "num_tokens": read.num_tokens[place].clone(), "vector": vector}
    return {"soft_tokens": read.rows[place], "vector": vector}


def _put_entry(entry: dict[str, torch.Tensor], result: ReadChunks, place: int) -> None:
    """Write a store's entry into its place; its shape fits, because the key covers the model."""
    rows = entry["kept"] if "kept" in entry else entry["soft_tokens"]
    result.rows[place] = rows.to(result.rows[place].dtype)
    result.vectors[place] = entry["vector"]
    if "num_tokens" in entry:
        result.num_tokens[place] = entry["num_tokens"]
