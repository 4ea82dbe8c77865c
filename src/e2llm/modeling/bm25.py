"""Rank passages by the words that they share with a question (BM25)."""

import logging
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import numpy

# Words so common in questions that sharing one says nothing about a passage.
_STOP_WORDS = frozenset(
    re.split(
        " ",
        "a an and are as at be been but by can could did do does for from had has have he her hers him his "
        "how i if in into is it its me my no not of on or our she should so that the their them there these "
        "they this those to us was we were what when where which who whom whose why will with would you your",
    )
)
# Marks that belong to the letter before them, which `\w` leaves out: accents, points and vowel signs.
_MARKS = (
    r"\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0df3"
    r"\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3"
)
_WORD = re.compile(rf"([\w{_MARKS}]+)(?:['’]s\b)?")  # without a possessive s
_PART = re.compile(rf"\d+|(?:[^\W\d_]|[{_MARKS}])+")
# Thai and Lao, Myanmar, Khmer, kana, Han; and Hangul, where particles stick to the words
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    r"\U00020000-\U0003ffff]+"
)


def words_of(text: str) -> list[str]:
    """Return the words of a text that ranking uses.

    Without regard to case; an identifier counts whole and by its parts (`read_pages`, `readPages`: read,
    pages); a run of a script without spaces counts by its pairs of characters; plurals lose their s.
    """
    return [word for run in _runs(text) for word in _words_in(run)]


def _runs(text: str) -> list[str]:
    """Return the runs of characters between white space and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text))


def _words_in(run: str) -> list[str]:
    words = []
    for unspaced in _UNSPACED.findall(run):
        words += [unspaced[at : at + 2] for at in range(max(1, len(unspaced) - 1))]
    for word in _UNSPACED.sub(" ", run).split():
        parts = [hump for part in _PART.findall(word) for hump in _humps(part)]
        if parts != [word]:
            words += [_stem(part.casefold()) for part in parts]
        words.append(_stem(word.casefold()))
    return [word for word in words if word not in _STOP_WORDS]


def _humps(word: str) -> list[str]:
    """Split a word at its capitals: readPages gives read, Pages; HTTPServer gives HTTP, Server."""
    starts = [
        at
        for at in range(1, len(word))
        if word[at].isupper() and (word[at - 1].islower() or word[at + 1 : at + 2].islower())
    ]
    return [word[start:end] for start, end in pairwise([0, *starts, len(word)])]


def _stem(word: str) -> str:
    """Return a word without its plural or possessive s, a light stemming that does not harm names."""
    return (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
    )


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
        ids_of_runs: dict[str, list[int]] = {}  # texts repeat words, so split each run only once
        ids = []
        for text in texts:
            row: list[int] = []
            for run in _runs(text):
                if run not in ids_of_runs:
                    ids_of_runs[run] = [self._id(word) for word in _words_in(run)]
                row += ids_of_runs[run]
            ids.append(row)
        self._index = None
        if self._vocabulary:
            self._index = bm25s.BM25(method="lucene")
            self._index.index((ids, self._vocabulary), show_progress=False)

    def _id(self, word: str) -> int:
        return self._vocabulary.setdefault(word, len(self._vocabulary))

    def scores(self, question: str) -> list[float]:
        """A score per passage: higher is more relevant, 0.0 for one that shares no word with the question."""
        known = {self._vocabulary[word] for word in words_of(question) if word in self._vocabulary}
        if self._index is None or not known:
            return [0.0] * self.num_texts
        scores = self._index.get_scores_from_ids(sorted(known))
        return list(numpy.asarray(scores, dtype=float)[: self.num_texts].tolist())
