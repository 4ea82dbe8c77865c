"""The parts of a server that its routes share."""

import shutil
import tempfile
import time
from pathlib import Path

from fastapi import Request

from e2llm.inference.engine import Engine
from e2llm.inference.shared_reader import SharedReader
from e2llm.serving.backend import Backend, LocalBackend
from e2llm.serving.http.gate import Metrics
from e2llm.serving.http.keys import KeyRing
from e2llm.serving.http.work import Admission
from e2llm.serving.kept_contexts import KeptContexts
from e2llm.serving.preparing import RequestPreparer
from e2llm.serving.settings import ServerSettings
from e2llm.store.chunk_store import ChunkStore


class ServerState:
    """A model, the contexts, the backend, and the limits.

    Args:
        engine: The server uses its model and processor, with a reader that many share.
        settings: Limits and places.
        backend: Decodes answers; by default this process.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, backend: Backend | None = None) -> None:
        self.settings = settings
        self.started_at = int(time.time())
        self._temporary = None if settings.folder else Path(tempfile.mkdtemp(prefix="e2llm-serve-"))
        folder = settings.folder or self._temporary
        assert folder is not None
        # It holds texts of the callers: a new folder is for this user alone.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        limit = None if settings.store_mb is None else settings.store_mb * 2**20
        self.store = ChunkStore(folder / "store", max_bytes=limit, is_required=False)
        self.reader = SharedReader(engine.reader)
        self.engine = engine = Engine(engine.model, engine.processor, store=self.store, reader=self.reader)
        self.contexts = KeptContexts(
            folder / "contexts",
            engine,
            self.store,
            memory_bytes=settings.context_memory_mb * 2**20,
            max_contexts=settings.max_contexts,
        )
        self.backend: Backend = backend or LocalBackend(
            engine, settings.max_batch, settings.prefix_cache_mb * 2**20
        )
        self.preparer = RequestPreparer(engine, self.contexts, self.store, settings)
        self.keys = KeyRing(settings.api_keys)
        self.admission = Admission(settings.max_queue)
        self.metrics = Metrics(
            {
                "requests_at_work": ("Requests running or waiting.", lambda: self.admission.num_requests),
                "answers_decoding": ("Answers being decoded or waiting.", lambda: self.backend.num_decoding),
                "texts_reading": ("Texts being read or waiting.", lambda: self.reader.num_waiting),
            }
        )

    def close(self) -> None:
        """Stop the threads; files in the server's folder stay."""
        self.backend.close()
        self.reader.close()
        self.admission.close()
        self.store.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def state_of(request: Request) -> ServerState:
    """Return the state of the server that a request came to."""
    state: ServerState = request.app.state.e2llm
    return state


def owner_of(request: Request) -> str:
    """Return the caller; raise `ApiError` (401) if a required key is missing."""
    return state_of(request).keys.owner(request.headers.get("authorization"))
