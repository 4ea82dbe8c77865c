"""Contexts that outlive the process: each a small file with its texts; what was read of them is in the store.

A context is one JSON file that appears whole or not at all, so that a server killed at any moment has every
context whose making it confirmed. Soft tokens are fetched from the store of encoded chunks when a context is
asked for; what the store lacks, such as after another model was loaded, is read again. Several servers may
share the folder: a file that another one has changed is loaded anew.
"""

import contextlib
import json
import logging
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from e2llm.chunking import CHUNKERS, check_splitting
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.inference.context import Context
from e2llm.inference.documents import Document
from e2llm.inference.engine import Engine
from e2llm.serving.api_errors import ApiError
from e2llm.serving.keys import ANYONE
from e2llm.store.chunk_store import ChunkStore
from e2llm.surrogates import reject_lone_surrogates

try:
    import fcntl
except ImportError:  # no file locks on this system: one server to a folder
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("e2llm.serving")

FORMAT = 1
_SUFFIX = ".json"
_LOCKS = 64
_BEGINNING_BYTES = 256
# As `_keep` begins a file: texts come later, so that no text of a user can look like it.
_BEGINNING = re.compile(rb'\{"format": \d+, "id": "ctx_[0-9a-f]{24}", "owner": "(?P<owner>\w+)", "')


@dataclass(frozen=True)
class Facts:
    """What is kept of a context beside its texts.

    Attributes:
        id: `ctx_` and 24 hexadecimal digits.
        owner: Whose it is (see `KeyRing.owner`).
        name: For people.
        created_at: Seconds since 1970.
        updated_at: The same.
        version: 1, and one more after each edit.
        chunk_size_chars: Longest chunk; None for the model's.
        documents: Name and number of characters of each document.
    """

    id: str
    owner: str
    name: str
    created_at: int
    updated_at: int
    version: int
    chunk_size_chars: int | None
    documents: tuple[tuple[str, int], ...]

    @property
    def characters(self) -> int:
        """Characters of all documents."""
        return sum(length for _, length in self.documents)


@dataclass(frozen=True)
class KeptContext:
    """A context with what is kept of it."""

    facts: Facts
    context: Context


class KeptContexts:
    """The contexts of a folder.

    Args:
        folder: Made if need be.
        engine: Reads them.
        store: Where what was read is.
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
        self._loaded: OrderedDict[str, tuple[tuple[int, ...], KeptContext]] = OrderedDict()
        self._facts: dict[str, tuple[tuple[int, ...], Facts]] = {}
        self._damaged: dict[str, tuple[int, ...]] = {}
        self._lock = threading.Lock()
        self._editing = [threading.Lock() for _ in range(_LOCKS)]
        (folder / "locks").mkdir(parents=True, exist_ok=True)

    # --- looking ------------------------------------------------------------------------------------------

    def list(self, owner: str) -> list[Facts]:
        """An owner's contexts, newest first."""
        found = []
        for file in self._folder.glob(f"ctx_*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError, ApiError):  # gone meanwhile, or damaged
                facts = self._facts_of(file)
                if facts.owner == owner:
                    found.append(facts)
        return sorted(found, key=lambda facts: (facts.created_at, facts.id), reverse=True)

    def get(self, context_id: str, owner: str) -> KeptContext:
        """A context, from memory or else from its file and the store.

        Raises:
            ApiError: 404 if there is none of this id that is this owner's; 500 if its file is damaged.
        """
        file = self._file(context_id)
        try:
            facts = self._facts_of(file)
        except FileNotFoundError:
            raise _no_such(context_id) from None
        if facts.owner != owner:
            raise _no_such(context_id)
        state = _state(file)
        with self._lock:
            kept = self._loaded.get(context_id)
            if kept is not None and kept[0] == state and self._is_current(kept[1].context):
                self._loaded.move_to_end(context_id)
                return kept[1]
        facts, documents = self._read(file)
        context = self._engine.read(
            documents, chunk_size_chars=facts.chunk_size_chars, store=self._store, progress=False
        )
        loaded = KeptContext(facts, context)
        self._remember(state, loaded)
        return loaded

    def _is_current(self, context: Context) -> bool:
        return context.fingerprint == self._engine.reader.fingerprint

    # --- changing -----------------------------------------------------------------------------------------

    def create(
        self, owner: str, name: str, documents: Sequence[Document], chunk_size_chars: int | None
    ) -> KeptContext:
        """Read documents and keep them.

        Raises:
            ApiError: 409 if the owner has too many contexts.
            E2LLMError: If there is no text.
        """
        if len(self.list(owner)) >= self._max_contexts:
            raise ApiError(
                409, f"there are {self._max_contexts} contexts, the most allowed; delete one", code="limit"
            )
        context = self._engine.read(
            documents, chunk_size_chars=chunk_size_chars, store=self._store, progress=False
        )
        now = int(time.time())
        sizes = tuple((item.name, len(item.text)) for item in context.documents)
        context_id = f"ctx_{secrets.token_hex(12)}"
        facts = Facts(context_id, owner, name, now, now, 1, chunk_size_chars, sizes)
        return self._keep(facts, context)

    def edit(self, context_id: str, owner: str, change: Callable[[Context], Any]) -> KeptContext:
        """Change a context by its own methods, such as `append`; others keep the one they have.

        Raises:
            ApiError: 404 if there is none of this id that is this owner's.
            E2LLMError: If the change is refused; the context stays as it was.
        """
        with self._held(context_id):
            kept = self.get(context_id, owner)
            old = kept.context
            edited = self._engine.bind(old.content, old.splitting, old.read_seconds, store=self._store)
            change(edited)
            sizes = tuple((item.name, len(item.text)) for item in edited.documents)
            facts = replace(
                kept.facts,
                updated_at=int(time.time()),
                version=kept.facts.version + 1,
                documents=sizes,
            )
            return self._keep(facts, edited)

    def delete(self, context_id: str, owner: str) -> None:
        """Delete a context, a damaged one, too; what was read of it stays in the store.

        Raises:
            ApiError: 404 if there is none of this id that is this owner's; 500 if its file is damaged, does
                not say whose it is, and there are several owners.
        """
        with self._held(context_id):
            file = self._file(context_id)
            try:
                if self._owner_of(file, owner) != owner:
                    raise _no_such(context_id)
                file.unlink()
            except FileNotFoundError:
                raise _no_such(context_id) from None
            with self._lock:
                self._loaded.pop(context_id, None)
                self._facts.pop(context_id, None)

    # --- files --------------------------------------------------------------------------------------------

    def _file(self, context_id: str) -> Path:
        return self._folder / f"{context_id}{_SUFFIX}"

    def _owner_of(self, file: Path, caller: str) -> str:
        """Whose a context is; of a damaged one, what its file begins with says so."""
        try:
            return self._facts_of(file).owner
        except ApiError:
            with file.open("rb") as stream:
                found = _BEGINNING.match(stream.read(_BEGINNING_BYTES))
            if found is not None:
                return found["owner"].decode()
            if caller == ANYONE:  # without keys there is one owner
                return caller
            raise

    def _facts_of(self, file: Path) -> Facts:
        state = _state(file)
        known = self._facts.get(file.stem)
        if known is None or known[0] != state:
            known = (state, self._read(file)[0])
            self._facts[file.stem] = known
        return known[1]

    def _read(self, file: Path) -> tuple[Facts, Sequence[Document]]:
        """What a context's file says; a damaged one is noted in the log, once, and is the server's fault."""
        try:
            return _read(file)
        except E2LLMError as error:
            with contextlib.suppress(FileNotFoundError):
                state = _state(file)
                if self._damaged.get(file.stem) != state:
                    self._damaged[file.stem] = state
                    logger.error("%s; the context is left out: mend or delete the file", error)
            message = f"what the server keeps of {file.stem} is damaged; make the context again"
            raise ApiError(500, message, code="context_damaged", param="context_id") from error

    def _keep(self, facts: Facts, context: Context) -> KeptContext:
        file = self._file(facts.id)
        content = {
            "format": FORMAT,
            **{name: value for name, value in asdict(facts).items() if name != "documents"},
            "documents": [asdict(item) for item in context.documents],
        }
        write_atomically(file, json.dumps(content, ensure_ascii=False).encode())
        kept = KeptContext(facts, context)
        self._remember(_state(file), kept)
        return kept

    def _remember(self, state: tuple[int, ...], kept: KeptContext) -> None:
        with self._lock:
            self._facts[kept.facts.id] = (state, kept.facts)
            self._loaded[kept.facts.id] = (state, kept)
            self._loaded.move_to_end(kept.facts.id)
            total = sum(_num_bytes(item.context) for _, item in self._loaded.values())
            while total > self._memory_bytes and self._loaded:
                _, (_, oldest) = self._loaded.popitem(last=False)
                total -= _num_bytes(oldest.context)

    @contextlib.contextmanager
    def _held(self, context_id: str) -> Iterator[None]:
        """Keep other threads, and other servers on this folder, from changing a context meanwhile."""
        number = int(context_id[-6:], 16) % _LOCKS
        with self._editing[number]:
            if fcntl is None:
                yield
                return
            with (self._folder / "locks" / f"{number}").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield


def _no_such(context_id: str) -> ApiError:
    return ApiError(404, f"there is no context {context_id}", code="context_not_found", param="context_id")


def _state(file: Path) -> tuple[int, ...]:
    """Changes whenever the file is replaced."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _num_bytes(context: Context) -> int:
    return context.content.read.num_bytes


def _read(file: Path) -> tuple[Facts, list[Document]]:
    """What a context's file says.

    Raises:
        FileNotFoundError: If there is none.
        E2LLMError: If it is damaged, or of a newer format.
    """
    try:
        content = json.loads(file.read_bytes())
        found = content["format"]
        if type(found) is int and found > FORMAT:
            raise E2LLMError(f"{file}: format {found} is newer than this e2llm reads ({FORMAT})")
        if type(found) is not int or found < 1:
            raise ValueError(f"its format is {found!r}")
        documents = [_document(item) for item in content["documents"]]
        if not any(item.text.strip() for item in documents):
            raise ValueError("it holds no text")
        facts = _facts(content, documents)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, E2LLMError) and str(error).startswith(str(file)):
            raise
        raise E2LLMError(f"{file}: damaged context file ({error})") from error
    if facts.id != file.stem:
        raise E2LLMError(f"{file}: holds the context {facts.id}; the file was renamed")
    return facts, documents


def _facts(content: dict[str, Any], documents: Sequence[Document]) -> Facts:
    """What is kept beside the texts; raises for a value that cannot be."""
    for name in ("id", "owner", "name"):
        reject_lone_surrogates(content[name], name)
    for name in ("created_at", "updated_at", "version"):
        if type(content[name]) is not int or not (name == "version") <= content[name] < 2**53:
            raise ValueError(f"{name} is {content[name]!r}")
    if content["chunk_size_chars"] is not None:
        check_splitting(content["chunk_size_chars"], 0, "prose")
    names = ("id", "owner", "name", "created_at", "updated_at", "version", "chunk_size_chars")
    sizes = tuple((item.name, len(item.text)) for item in documents)
    return Facts(**{name: content[name] for name in names}, documents=sizes)


def _document(item: dict[str, Any]) -> Document:
    """One document; raises for a value that cannot be."""
    document = Document(**item)
    for text in (document.name, document.text, document.heading):
        reject_lone_surrogates(text)
    if document.kind is not None and document.kind not in CHUNKERS:
        raise ValueError(f"a document of kind {document.kind!r}")
    return document
