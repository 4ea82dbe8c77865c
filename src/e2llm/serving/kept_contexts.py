"""Contexts that survive the process: small files with texts, while the store has the encoded chunks.

A context is one JSON file, written whole or not at all, so that a server killed at any moment still has every
context that it confirmed. Soft tokens come from the store of encoded chunks; chunks that it lacks, such as
those of another model, are read again. Several servers may share the folder: each loads a file again that
another one has changed.
"""

import contextlib
import hashlib
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import Field

from e2llm.chunking import CHUNKERS, check_splitting
from e2llm.documents import Document
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.inference.content import Splitting, note_on_limit, read_content
from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.serving.http.api_error import ApiError
from e2llm.store.chunk_store import ChunkStore
from e2llm.validation import CheckedModel

logger = logging.getLogger("e2llm.serving")

FORMAT = 1
_SUFFIX = ".json"
_CHECKSUM = ', "checksum": "'  # the end of a file, before the digits
_LOCKS = 64

State = tuple[int, ...]  # of a file; changes whenever the file is replaced
Seconds = Annotated[int, Field(ge=0, lt=2**53)]


class Facts(CheckedModel):
    """A context's file without its texts.

    Attributes:
        id: `ctx_` and 24 hexadecimal digits.
        owner: Owner of the context (see `KeyRing.owner`).
        name: For people.
        created_at: Seconds since 1970.
        updated_at: The same.
        version: 1, and one more after each edit.
        chunk_size_chars: Longest chunk; None for the model's.
        names: Names of the documents.
        characters: Characters of all documents.
    """

    id: str
    owner: str
    name: str
    created_at: Seconds
    updated_at: Seconds
    version: int = Field(ge=1, lt=2**53)
    chunk_size_chars: int | None
    names: tuple[str, ...] = Field(default=(), exclude=True)
    characters: int = Field(default=0, exclude=True)

    def about(self, documents: Sequence[Document], **changes: Any) -> "Facts":
        """Return the facts of a context of these documents."""
        values = {name: getattr(self, name) for name in Facts.model_fields} | changes
        total = sum(len(item.text) for item in documents)
        return Facts(**values | {"names": tuple(item.name for item in documents), "characters": total})


class _ContextFile(Facts):
    """A context's file."""

    format: int = Field(ge=1)
    documents: list[Document] = Field(min_length=1)
    checksum: str | None = None  # older files have none


@dataclass(frozen=True)
class KeptContext:
    """A context with its facts, and a note on how it was just read."""

    facts: Facts
    context: Context
    note: str | None = None


class KeptContexts:
    """The contexts of a folder.

    Args:
        folder: Created if it does not exist.
        engine: Reads the texts.
        store: Holds the encoded chunks.
        memory_bytes: Most bytes of soft tokens kept in memory beyond those in use.
        max_contexts: Most contexts of one owner.
    """

    def __init__(
        self, folder: Path, engine: Engine, store: ChunkStore, *, memory_bytes: int, max_contexts: int
    ) -> None:
        self._folder = folder
        self._engine = engine
        self._store = store
        self._memory_bytes = memory_bytes
        self._max_contexts = max_contexts
        self._loaded: OrderedDict[str, tuple[State, KeptContext]] = OrderedDict()
        self._facts: dict[str, tuple[State, Facts]] = {}
        self._damaged: dict[str, State] = {}
        self._lock = threading.Lock()
        (folder / "locks").mkdir(parents=True, exist_ok=True)

    # --- looking ------------------------------------------------------------------------------------------

    def list(self, owner: str) -> list[Facts]:
        """Return an owner's contexts, newest first."""
        found = []
        for file in self._folder.glob(f"ctx_*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError, ApiError):  # deleted meanwhile, or damaged: logged
                if file.is_symlink() and not file.exists():
                    self._log_once(file, (), "it links to a file that does not exist")
                facts = self._facts_of(file)
                if facts.owner == owner:
                    found.append(facts)
        return sorted(found, key=lambda facts: (facts.created_at, facts.id), reverse=True)

    def get(self, context_id: str, owner: str) -> KeptContext:
        """Return a context, from memory or else from its file and the store.

        Raises:
            ApiError: 404 if this owner has no context of this id; 500 if its file is damaged.
        """
        with _missing_as_404(context_id):
            state = self._state_of(context_id, owner)
        with self._lock:
            kept = self._loaded.get(context_id)
            is_current = kept is not None and kept[1].context.fingerprint == self._engine.reader.fingerprint
            if kept is not None and is_current and kept[0] == state:
                self._loaded.move_to_end(context_id)
                return kept[1]
        facts, documents = self._read(self._file(context_id))
        loaded = KeptContext(facts, self._encode(documents, facts.chunk_size_chars))
        self._remember(state, loaded)
        return loaded

    # --- changing -----------------------------------------------------------------------------------------

    def create(
        self, owner: str, name: str, documents: Sequence[Document], chunk_size_chars: int | None
    ) -> KeptContext:
        """Read documents and keep them.

        Raises:
            ApiError: 409 if the owner has too many contexts.
        """
        if len(self.list(owner)) >= self._max_contexts:
            raise ApiError(
                409, f"you have {self._max_contexts} contexts, the most allowed; delete one", code="limit"
            )
        context = self._encode(documents, chunk_size_chars)
        note = None
        if chunk_size_chars is not None:
            note = note_on_limit(context.content, context.splitting, self._engine.processor)
        now_ns = time.time_ns()
        now = now_ns // 10**9
        facts = Facts(
            # Begins with the time, so that the contexts of one second are in order too.
            id=f"ctx_{now_ns:016x}{secrets.token_hex(4)}",
            owner=owner,
            name=name,
            created_at=now,
            updated_at=now,
            version=1,
            chunk_size_chars=chunk_size_chars,
        )
        return replace(self._keep(facts.about(context.documents), context), note=note)

    def edit(self, context_id: str, owner: str, change: Callable[[Context], Any]) -> KeptContext:
        """Change a context with its methods, such as `append`; running requests keep the old content.

        Raises:
            ApiError: 404 if this owner has no context of this id.
            E2LLMError: If the change is refused; the context stays as it was.
        """
        with self._held(context_id):
            kept = self.get(context_id, owner)
            old = kept.context
            edited = self._engine.bind(old.content, old.splitting, old.read_seconds, store=self._store)
            change(edited)
            changes = {"updated_at": int(time.time()), "version": kept.facts.version + 1}
            return self._keep(kept.facts.about(edited.documents, **changes), edited)

    def delete(self, context_id: str, owner: str) -> None:
        """Delete a context; its encoded chunks stay in the store.

        Raises:
            ApiError: 404 if this owner has no context of this id; 500 if its file is damaged.
        """
        with self._held(context_id), _missing_as_404(context_id):
            self._state_of(context_id, owner)
            self._file(context_id).unlink()
            with self._lock:
                self._loaded.pop(context_id, None)
                self._facts.pop(context_id, None)

    # --- files --------------------------------------------------------------------------------------------

    def _file(self, context_id: str) -> Path:
        return self._folder / f"{context_id}{_SUFFIX}"

    def _encode(self, documents: Sequence[Document], chunk_size_chars: int | None) -> Context:
        engine, started = self._engine, time.perf_counter()
        splitting = Splitting.of(engine.processor, chunk_size_chars)
        # Not `Engine.read`, which refuses documents without text: edits may have left none.
        content = read_content(documents, splitting, engine.reader, store=self._store, progress=False)
        return engine.bind(content, splitting, time.perf_counter() - started, store=self._store)

    def _state_of(self, context_id: str, owner: str) -> State:
        """Return the state of a context's file, if the context is this owner's."""
        file = self._file(context_id)
        state = _state(file)
        if self._facts_of(file).owner != owner:
            raise _no_such(context_id)
        return state

    def _facts_of(self, file: Path) -> Facts:
        state = _state(file)
        known = self._facts.get(file.stem)
        if known is None or known[0] != state:
            known = (state, self._read(file)[0])
            self._facts[file.stem] = known
        return known[1]

    def _read(self, file: Path) -> tuple[Facts, Sequence[Document]]:
        """Read a context's file; a damaged one is logged once, and is an error of the server."""
        try:
            return _read(file)
        except FileNotFoundError:
            raise
        except (E2LLMError, OSError) as error:
            with contextlib.suppress(FileNotFoundError):
                self._log_once(file, _state(file), error)
            message = f"the server's file of {file.stem} is damaged; create the context again"
            raise ApiError(500, message, code="context_damaged", param="context_id") from error

    def _log_once(self, file: Path, state: State, fault: object) -> None:
        """Log the fault of a file that stays in this state."""
        if self._damaged.get(file.stem) != state:
            self._damaged[file.stem] = state
            logger.error("%s: %s; the context is left out; repair or delete the file", file, fault)

    def _keep(self, facts: Facts, context: Context) -> KeptContext:
        file = self._file(facts.id)
        documents = [_saved(item) for item in context.documents]
        content = {"format": FORMAT, **facts.model_dump(), "documents": documents}
        write_atomically(file, _with_checksum(json.dumps(content, ensure_ascii=False).encode()[:-1]))
        kept = KeptContext(facts, context)
        self._remember(_state(file), kept)
        return kept

    def _remember(self, state: State, kept: KeptContext) -> None:
        with self._lock:
            self._facts[kept.facts.id] = (state, kept.facts)
            self._loaded[kept.facts.id] = (state, kept)
            self._loaded.move_to_end(kept.facts.id)
            total = sum(item.context.content.read.num_bytes for _, item in self._loaded.values())
            while total > self._memory_bytes and self._loaded:
                _, (_, oldest) = self._loaded.popitem(last=False)
                total -= oldest.context.content.read.num_bytes

    def _held(self, context_id: str) -> FileLock:
        """Return a lock that keeps other threads and other servers from changing a context."""
        number = int(context_id[-6:], 16) % _LOCKS
        return FileLock(self._folder / "locks" / f"{number}")


def _saved(document: Document) -> dict[str, Any]:
    """What a file holds of a document; places only where it has some, as files of older versions."""
    values = asdict(document)
    return values if document.places else {name: v for name, v in values.items() if name != "places"}


def _no_such(context_id: str) -> ApiError:
    return ApiError(404, f"there is no context {context_id}", code="context_not_found", param="context_id")


@contextlib.contextmanager
def _missing_as_404(context_id: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise _no_such(context_id) from None


def _state(file: Path) -> State:
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _with_checksum(start: bytes) -> bytes:
    """Return a file's content from its start, the JSON without the last brace."""
    checksum = hashlib.blake2b(start, digest_size=16).hexdigest()
    return start + f'{_CHECKSUM}{checksum}"}}'.encode()


def _read(file: Path) -> tuple[Facts, list[Document]]:
    """Read a context's file.

    Raises:
        FileNotFoundError: If it does not exist.
        E2LLMError: If it is damaged, or of a newer format.
    """
    data = file.read_bytes()
    content = _ContextFile.read_json(data)
    if content.checksum is not None and data != _with_checksum(data.rpartition(_CHECKSUM.encode())[0]):
        raise E2LLMError("its checksum is another one (where you changed the file, delete the checksum)")
    if content.format > FORMAT:
        raise E2LLMError(f"its format {content.format} is newer than this e2llm can read ({FORMAT})")
    if content.id != file.stem:
        raise E2LLMError(f"it contains the context {content.id}; the file was renamed")
    if content.chunk_size_chars is not None:
        check_splitting(content.chunk_size_chars, 0, "prose")
    for item in content.documents:
        if item.kind is not None and item.kind not in CHUNKERS:
            raise E2LLMError(f"the kind of a document is {item.kind!r}; choose from: {', '.join(CHUNKERS)}")
    return content.about(content.documents), content.documents
