"""Which chunks a question points at: by the words they share, or by the encoder's embedding."""

import re
import unicodedata
from collections.abc import Sequence

import numpy
import torch

# Words so common in questions that sharing one says nothing about a passage.
_STOP_WORDS = frozenset(
    re.split(
        " ",
        "a an and are as at be been but by can could did do does for from had has have he her hers him his "
        "how i if in into is it its me my no not of on or our she should so that the their them there these "
        "they this those to us was we were what when where which who whom whose why will with would you your",
    )
)
_WORD = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u1000-\u109f\u1780-\u17ff]+")


def words_of(text: str) -> list[str]:
    """The words by which passages are found.

    Lower case; an identifier counts whole and by its parts (`read_pages`, `readPages`: read, pages); a run of
    a script without spaces counts by its pairs of characters; plurals lose their s.
    """
    words = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text)):
        word = match.group()
        if _UNSPACED.search(word):
            for run in _UNSPACED.findall(word):
                words += [run[at : at + 2] for at in range(max(1, len(run) - 1))]
            word = _UNSPACED.sub("", word)
            if not word:
                continue
        parts = _PART.findall(word)
        if len(parts) > 1:
            words += [_stem(part.lower()) for part in parts]
        words.append(_stem(word.lower()))
    return [word for word in words if word not in _STOP_WORDS]


def _stem(word: str) -> str:
    """A word without its plural or possessive s; the light end of stemming, which harms no name."""
    return (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
    )


class Bm25Index:
    """Passages ranked by BM25 (Lucene's variant, k1 1.5, b 0.75, by the library bm25s).

    Args:
        texts: The passages.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self.num_texts = len(texts)
        self._vocabulary: dict[str, int] = {}
        ids = [
            [self._vocabulary.setdefault(word, len(self._vocabulary)) for word in words_of(text)]
            for text in texts
        ]
        self._index = None
        if self._vocabulary:
            self._index = bm25s.BM25(method="lucene")
            self._index.index((ids, self._vocabulary), show_progress=False)

    def scores(self, question: str) -> list[float]:
        """A score per passage: higher is more relevant, 0.0 for one that shares no word with the question."""
        known = {self._vocabulary[word] for word in words_of(question) if word in self._vocabulary}
        if self._index is None or not known:
            return [0.0] * self.num_texts
        scores = self._index.get_scores_from_ids(sorted(known))
        return list(numpy.asarray(scores, dtype=float)[: self.num_texts].tolist())


def rank_by_vectors(question: torch.Tensor, vectors: torch.Tensor) -> list[float]:
    """Cosine similarity of a question `[E]` to passages `[C, E]`: C values."""
    similarity = torch.nn.functional.cosine_similarity(vectors.float(), question.float()[None], dim=1)
    return list(similarity.tolist())


def best(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the `count` best scores, in rising order; of equal ones the earlier."""
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return sorted(ranking[: max(0, count)])
