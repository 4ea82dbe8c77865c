"""Which chunks a question points at, by scores: those of BM25 (`e2llm.modeling.bm25`) or of the encoder."""

from collections.abc import Sequence

import torch


def rank_by_vectors(question: torch.Tensor, vectors: torch.Tensor) -> list[float]:
    """Cosine similarity of a question `[E]` to passages `[C, E]`: C values."""
    similarity = torch.nn.functional.cosine_similarity(vectors.float(), question.float()[None], dim=1)
    return list(similarity.tolist())


def best(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the `count` best scores, in rising order; of equal ones the earlier."""
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return sorted(ranking[: max(0, count)])
