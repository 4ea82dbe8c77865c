"""A context: documents that an engine has read, to ask, edit, save and load."""

import threading
import time
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

import torch

from e2llm.chunking import Chunk
from e2llm.documents import Document, named_apart
from e2llm.errors import E2LLMError
from e2llm.inference.content import Content, Splitting, read_content
from e2llm.inference.context_file import SavedContext, load_context, save_context
from e2llm.inference.reader import ChunkReader, ReadChunks
from e2llm.messages import counted
from e2llm.store.chunk_store import ChunkStore
from e2llm.surrogates import check_text


class Reading(Protocol):
    """The parts of an engine that loading a context needs."""

    reader: ChunkReader
    store: ChunkStore | None


class Context:
    """Documents that were read once, to be asked often and edited in place.

    An edit encodes only the chunks that it changes, and returns their number. The context then equals the
    one that reading the edited documents gives, up to rounding. Running questions keep the content that they
    began with.

    Made by `Engine.read` and `Context.load`.

    Args:
        content: What it holds.
        splitting: How its documents are split.
        reader: Reads what edits add; None for a context that cannot be edited.
        read_seconds: Time that reading took.
        store: Where read chunks are looked up and kept.
    """

    def __init__(
        self,
        content: Content,
        splitting: Splitting,
        reader: ChunkReader | None = None,
        *,
        read_seconds: float = 0.0,
        store: ChunkStore | None = None,
    ) -> None:
        self.content = content
        self.splitting = splitting
        self.fingerprint = "" if reader is None else reader.fingerprint
        self.finest_rate = None if reader is None else reader.finest_rate
        self.read_seconds = read_seconds
        self._reader = reader
        self._store = store
        self._editing = threading.RLock()

    @classmethod
    def of_text(cls, text: str) -> "Context":
        """Return a context of one chunk without states, which can only be given as text."""
        chunk = Chunk(0, len(text), text)
        content = Content((Document("text", text),), [chunk], [0], [0], 0, ReadChunks.nothing(1))
        return cls(content, Splitting(1, 0, "prose"))

    @classmethod
    def empty(cls) -> "Context":
        """Return a context without text, so that the decoder answers from its own knowledge."""
        return cls(Content((), [], [], [], 0, ReadChunks.nothing()), Splitting(1, 0, "prose"))

    @classmethod
    def load(cls, path: str | PathLike[str], engine: Reading) -> "Context":
        """Load a saved context for use with an engine.

        Raises:
            FileNotFoundError: If there is no such file.
            E2LLMError: If the file is damaged, or another model read the context.
        """
        return cls.load_with_extra(path, engine)[0]

    @classmethod
    def load_with_extra(cls, path: str | PathLike[str], engine: Reading) -> "tuple[Context, dict[str, Any]]":
        """Load a saved context and the `extra` values saved with it."""
        saved = load_context(Path(fspath(path)), engine.reader)
        context = cls(
            saved.content,
            saved.splitting,
            engine.reader,
            read_seconds=saved.read_seconds,
            store=engine.store,
        )
        return context, saved.extra

    def save(self, path: str | PathLike[str], *, extra: dict[str, Any] | None = None) -> None:
        """Save texts, spans, states and fingerprint atomically as one safetensors file.

        Args:
            path: The file.
            extra: Plain values to save with it, such as a conversation.

        Raises:
            E2LLMError: If the context has no states.
        """
        if not self.fingerprint:
            raise E2LLMError("this context has no states to save; make it with Engine.read")
        saved = SavedContext(
            self.content, self.splitting, self.fingerprint, self.finest_rate, self.read_seconds, extra or {}
        )
        save_context(saved, Path(fspath(path)))

    # --- content ---------------------------------------------------------------------------------------

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents, in order."""
        return self.content.documents

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks in order; spans count within each chunk's document."""
        return self.content.chunks

    @property
    def sources(self) -> list[str]:
        """Name of each chunk's document, as many as chunks."""
        return self.content.sources

    @property
    def kept(self) -> torch.Tensor:
        """The kept states `[C, N, S]` of all chunks, on CPU, padded with zeros.

        Pooled states at the finest rate; for `attention` and `mlp` the soft tokens, at most N per chunk.
        """
        return self.content.read.kept

    @property
    def num_tokens(self) -> int:
        """Decoder tokens of all chunks, without repeated text."""
        return self.content.num_tokens

    def __len__(self) -> int:
        return len(self.content.chunks)

    def __repr__(self) -> str:
        content = self.content
        chunks, documents = counted(len(content.chunks), "chunk"), counted(len(content.documents), "document")
        return f"Context({chunks} of {documents}, {counted(content.num_tokens, 'token')})"

    # --- edits --------------------------------------------------------------------------------------------

    def append(self, source: str | Document, *, name: str | None = None) -> int:
        """Add a document at the end.

        Args:
            source: Its text, or a `Document`.
            name: Name of a text; by default `text 2` for a second document, and so on.

        Raises:
            E2LLMError: If it has no text, or this context was not read.
        """
        if isinstance(source, str) and name:
            source = Document(name, source)
        return self.extend([source])

    def extend(self, documents: Iterable[str | Document]) -> int:
        """Add texts and `Document`s at the end; one whose name is taken gets a number (see `append`)."""
        if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
            got = type(documents).__name__
            raise E2LLMError(f"extend takes a list of strings and Documents, got {got}; append takes one")
        with self._editing:
            added: list[Document] = []
            for item in documents:
                if not isinstance(item, str | Document):
                    raise E2LLMError(f"a context takes strings and Documents, got {type(item).__name__}")
                number = len(self.documents) + len(added) + 1
                document = Document(f"text {number}", item) if isinstance(item, str) else item
                if not document.text.strip():
                    raise E2LLMError(f"{document.name}: the text to append is empty")
                check_text(document.text, document.name)
                added.append(document)
            named = named_apart(added, [document.name for document in self.documents])
            return self._reread([*self.documents, *named])

    def replace(self, index: int, text: str) -> int:
        """Replace a chunk's text; the document is split again around it.

        Args:
            index: Index of the chunk, from 0; later chunks may get other indices.
            text: Text of any length; an empty text deletes the chunk, also the last one of a context.

        Raises:
            E2LLMError: If there is no such chunk.
        """
        with self._editing:
            content = self.content
            chunk = content.chunks[content.check_chunk(index)]
            return self.edit(content.owners[index], chunk.start, chunk.end, text)

    def delete(self, index: int) -> int:
        """Delete a chunk's text from its document (see `replace`)."""
        return self.replace(index, "")

    def edit(self, document: int, start: int, end: int, text: str) -> int:
        """Replace the characters `[start, end)` of a document by a text.

        Args:
            document: The document's place in `documents`, from 0.
            start: First character.
            end: Index after the last character; equal to `start` to insert.
            text: The new characters.

        Raises:
            E2LLMError: If the span does not exist.
        """
        with self._editing:
            documents = list(self.documents)
            if not 0 <= document < len(documents):
                present = f"documents 0 to {len(documents) - 1}" if documents else "no documents"
                raise E2LLMError(f"document {document} does not exist; the context has {present}")
            old = documents[document]
            if not 0 <= start <= end <= len(old.text):
                raise E2LLMError(
                    f"characters {start} to {end} are not a span of {old.name}, which has {len(old.text)} "
                    "characters"
                )
            check_text(text)
            documents[document] = old.edited(start, end, text)
            return self._reread(documents)

    def _reread(self, documents: Sequence[Document]) -> int:
        """Replace the content by that of other documents; encode only unknown chunks."""
        if self._reader is None:
            raise E2LLMError(
                "this context cannot be edited, because no engine read it; make it with Engine.read"
            )
        if self._reader.fingerprint != self.fingerprint:
            raise E2LLMError("the model's weights have changed since this context was read; read it again")
        started = time.perf_counter()
        content = read_content(documents, self.splitting, self._reader, known=self.content, store=self._store)
        self.content = content
        self.read_seconds += time.perf_counter() - started
        return content.num_encoded
