"""Rank passages by the words that they share with a question (BM25)."""

import logging
from collections.abc import Sequence
from itertools import chain

import numpy

from e2llm.words import runs_of, words_in, words_of_question


class Bm25Index:
    """Passages ranked by BM25 (Lucene's variant, k1 1.5, b 0.75, by the library bm25s).

    Args:
        texts: The passages.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        level = logging.getLogger("bm25s").level
        import bm25s

        logging.getLogger("bm25s").setLevel(level)  # the import sets it to debug, which would log each index
        self.num_texts = len(texts)
        self._vocabulary: dict[str, int] = {}
        ids_of_runs = _IdsOfRuns(self._vocabulary)
        ids = [list(chain.from_iterable(map(ids_of_runs.__getitem__, runs_of(text)))) for text in texts]
        self._index = None
        if self._vocabulary:
            self._index = bm25s.BM25(method="lucene")
            self._index.index((ids, self._vocabulary), show_progress=False)

    def scores(self, question: str) -> list[float]:
        """A score per passage: higher is more relevant, 0.0 for one that shares no word with the question."""
        words = words_of_question(question)
        known = {self._vocabulary[word] for word in words if word in self._vocabulary}
        if self._index is None or not known:
            return [0.0] * self.num_texts
        scores = self._index.get_scores_from_ids(sorted(known))
        return list(numpy.asarray(scores, dtype=float)[: self.num_texts].tolist())


class _IdsOfRuns(dict[str, list[int]]):
    """Ids of the words in each run; texts repeat words, so each run is taken apart only once."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._vocabulary = vocabulary

    def __missing__(self, run: str) -> list[int]:
        self[run] = [self._vocabulary.setdefault(word, len(self._vocabulary)) for word in words_in(run)]
        return self[run]
