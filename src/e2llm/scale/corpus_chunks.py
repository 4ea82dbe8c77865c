"""What is to be read of a corpus: the different texts of its chunks that a store lacks."""

import time
from collections.abc import Iterable, Iterator

from e2llm.errors import E2LLMError
from e2llm.inference.content import Splitting, chunk_key, chunk_texts
from e2llm.inference.documents import Document
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.store.chunk_store import ChunkStore

_LOOK_UP_CHUNKS = 256


class CorpusChunks:
    """The different chunk texts of a corpus that a store lacks, made as they are asked for.

    Memory holds one document and a key (32 bytes) of every different chunk.

    Attributes:
        fingerprint: Of the model that is to read them.
        keys: Of all different chunks so far.
        num_documents: Documents so far.
        num_chunks: Chunks so far.
        num_lacking: Different chunks so far that the store lacked.
        seconds: Spent so far on making them: reading documents, splitting, looking up.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        splitting: Splitting,
        processor: E2LLMProcessor,
        fingerprint: str,
        store: ChunkStore,
    ) -> None:
        self.fingerprint = fingerprint
        self.keys: set[bytes] = set()
        self.num_documents = self.num_chunks = self.num_lacking = 0
        self.seconds = 0.0
        self._documents = documents
        self._splitting = splitting
        self._processor = processor
        self._store = store

    def __iter__(self) -> Iterator[str]:
        batches = self._batches()
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                break
            yield from batch

    def _batches(self) -> Iterator[list[str]]:
        waiting: dict[bytes, str] = {}
        for document in self._documents:
            self.num_documents += 1
            for text in chunk_texts(document, self._splitting, self._processor):
                self.num_chunks += 1
                key = chunk_key(self.fingerprint, text)
                if key in self.keys:
                    continue
                self.keys.add(key)
                waiting[key] = text
                if len(waiting) == _LOOK_UP_CHUNKS:
                    yield self._lacking(waiting)
                    waiting = {}
        yield self._lacking(waiting)
        if not self.keys:
            raise E2LLMError("the corpus is empty; give a text to read")

    def _lacking(self, texts: dict[bytes, str]) -> list[str]:
        found = self._store.get_many(list(texts))
        lacking = [text for key, text in texts.items() if key not in found]
        self.num_lacking += len(lacking)
        return lacking

    def check(self) -> None:
        """Look every key up.

        Raises:
            E2LLMError: If one is not there.
        """
        num_gone = sum(key not in self._store for key in self.keys)
        if num_gone:
            raise E2LLMError(
                f"{self._store.path}: {num_gone:,} of {len(self.keys):,} chunks are not in the store, whose "
                "entries were removed or damaged meanwhile; run the command again to read them"
            )
