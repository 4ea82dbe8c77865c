"""Metrics of answers against references; the best reference counts."""

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from e2llm.errors import MissingExtraError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall after normalisation (SQuAD), from 0 to 1."""

    def score(reference: str) -> float:
        ours, theirs = normalize_answer(prediction).split(), normalize_answer(reference).split()
        if not ours or not theirs:
            return float(ours == theirs)
        common = sum((Counter(ours) & Counter(theirs)).values())
        return 2 * common / (len(ours) + len(theirs))

    return max(map(score, references))


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure with stemming, by the rouge_score package, from 0 to 1."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("rouge_score", "eval") from error
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return max(float(scorer.score(reference, prediction)["rougeL"].fmeasure) for reference in references)


def string_match(prediction: str, values: Sequence[str]) -> float:
    """Share of the values that stand in the prediction, upper and lower case alike (RULER), from 0 to 1."""
    text = prediction.lower()
    return sum(value.lower() in text for value in values) / len(values)


def bootstrap_interval(
    values: Sequence[float], *, num_draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean over records."""
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(num_draws))
    return means[int(0.025 * num_draws)], means[min(num_draws - 1, int(0.975 * num_draws))]


AnswerMetric = Callable[[str, Sequence[str]], float]
