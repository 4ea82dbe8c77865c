"""Metrics of answers against references: words in common, values found, the option chosen."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from e2llm.errors import E2LLMError
from e2llm.evaluation.text_overlap import (
    bleu,
    character_error_rate,
    check_references,
    edit_similarity,
    g_mean,
    rouge_l,
    rouge_scores,
)

__all__ = [
    "AnswerMetric",
    "accuracy_breakdown",
    "bleu",
    "character_error_rate",
    "choice_from_text",
    "edit_similarity",
    "exact_match",
    "g_mean",
    "normalize_answer",
    "normalize_trivia_answer",
    "perplexity",
    "rouge_l",
    "rouge_scores",
    "string_match",
    "string_match_any",
    "token_f1",
    "trivia_exact_match",
    "trivia_f1",
]

AnswerMetric = Callable[[str, Sequence[str]], float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f]")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TRIVIA_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´", " "))


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def normalize_trivia_answer(text: str) -> str:
    """TriviaQA's normalisation (arXiv 1705.03551, its evaluation script).

    SQuAD's but for two things: punctuation becomes a space ("a-b" is two words), and the quotes ‘ ’ ´ are
    punctuation too.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_TRIVIA_SPACES)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalised prediction is one of the normalised references, else 0 (SQuAD v2.0's script).

    References of nothing but articles and punctuation are left out unless all are; what is then left is the
    answer "no answer", which only an empty prediction meets.

    Raises:
        E2LLMError: If there is no reference.
    """
    return float(normalize_answer(prediction) in _squad_references(references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall after normalisation, the best reference, from 0 to 1.

    As SQuAD v2.0's script: references as in `exact_match`; if the prediction or the reference is empty, 1 if
    both are, else 0. SQuAD v1.1's and LongBench's scripts give 0 to two empty ones and keep references of
    articles and punctuation; they are the same otherwise.

    Raises:
        E2LLMError: If there is no reference.
    """
    ours = normalize_answer(prediction).split()
    theirs = [reference.split() for reference in _squad_references(references)]
    return max(_word_f1(ours, words) if ours and words else float(ours == words) for words in theirs)


def trivia_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is one of the references after TriviaQA's normalisation, else 0.

    References are all accepted aliases of the answer.

    Raises:
        E2LLMError: If there is no reference.
    """
    check_references(references)
    return float(normalize_trivia_answer(prediction) in map(normalize_trivia_answer, references))


def trivia_f1(prediction: str, references: Sequence[str]) -> float:
    """Word F1 after TriviaQA's normalisation, the best reference, from 0 to 1; 0 between two empty texts.

    Raises:
        E2LLMError: If there is no reference.
    """
    check_references(references)
    ours = normalize_trivia_answer(prediction).split()
    return max(_word_f1(ours, normalize_trivia_answer(reference).split()) for reference in references)


def _squad_references(references: Sequence[str]) -> list[str]:
    check_references(references)
    return [text for text in map(normalize_answer, references) if text] or [""]


def _word_f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """F1 of two bags of words, in the order of operations that the official scripts have."""
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def string_match(prediction: str, references: Sequence[str]) -> float:
    """Share of the references that stand in the prediction, upper and lower case alike, from 0 to 1.

    RULER's `string_match_all` (arXiv 2404.06654) of one answer, for all its tasks but question answering. As
    there, control characters of the prediction are line ends, and white space at its ends is left out.

    Raises:
        E2LLMError: If there is no reference.
    """
    check_references(references)
    text = _CONTROL_CHARACTERS.sub("\n", prediction.strip()).strip().lower()
    return sum(reference.lower() in text for reference in references) / len(references)


def string_match_any(prediction: str, references: Sequence[str]) -> float:
    """1 if any of the references stands in the prediction, upper and lower case alike, else 0.

    RULER's `string_match_part` (arXiv 2404.06654) of one answer, for its question answering tasks.

    Raises:
        E2LLMError: If there is no reference.
    """
    return float(string_match(prediction, references) > 0)


def choice_from_text(prediction: str, num_options: int, *, lenient: bool = True) -> int | None:
    """Index of the option that an answer names by its letter; None if it names none, or several.

    First LongBench v2's own reading (arXiv 2412.15204, its evaluation code): without asterisks, the first
    "The correct answer is (B)", else the first "The correct answer is B", upper and lower case as here. It
    looks at one letter only, so "The correct answer is All of them" means A, there and here.

    Otherwise, chosen here, the first of these that is found:

    1. the answer or its first line is a letter and no other word: "B", "(b).", "[B]"
    2. it begins with a marked letter: "(B) the cat", "B. the cat", "b: the cat"
    3. "answer", "option" or "choice" before a capital letter: "Answer: B", "the answer is **(C)**"; all of
       them agree
    4. capital letters in brackets, all the same: "I think (B) is right"

    Args:
        prediction: The answer.
        num_options: Number of options, from 1 to 26.
        lenient: False reads as LongBench v2 does and no further, for figures to be set beside published ones.

    Raises:
        E2LLMError: If the number of options is out of range.
    """
    if not 1 <= num_options <= 26:
        raise E2LLMError(f"num_options must be from 1 to 26, one for each letter; got {num_options}")
    letters = string.ascii_uppercase[:num_options]
    text = prediction.replace("*", "")
    for pattern in (rf"The correct answer is \(([{letters}])\)", rf"The correct answer is ([{letters}])"):
        if match := re.search(pattern, text):
            return letters.index(match[1])
    return _lenient_choice(text.strip(), letters) if lenient else None


def _lenient_choice(text: str, letters: str) -> int | None:
    either = letters + letters.lower()
    first_line = text.split("\n", 1)[0]
    for pattern in (rf"[\W_]*([{either}])[\W_]*\Z", rf"[(\[]?([{either}])[)\]]|([{either}])[.:](?=\s)"):
        if match := re.match(pattern, first_line):
            return letters.index((match[1] or match[2] if match.re.groups > 1 else match[1]).upper())
    for pattern in (
        rf"(?i:\b(?:answer|option|choice)(?:\s+is|\s+was)?\s*:?\s*)[(\[\"']?([{letters}])\b(?!['’])",
        rf"[(\[]([{letters}])[)\]]",
    ):
        found = set(re.findall(pattern, text))
        if found:
            return letters.index(found.pop()) if len(found) == 1 else None
    return None


def accuracy_breakdown(rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, float]:
    """Mean of `correct` over all rows and over the rows of every value of every key, each from 0 to 1.

    With the keys `difficulty` and `length` these are LongBench v2's Overall, Easy, Hard, Short, Medium and
    Long, which its script rounds to a tenth of a percent.

    Args:
        rows: Each with `correct` (a truth value, or a score from 0 to 1) and its group values by key. A row
            without a key counts in that key's groups nowhere, and in the overall mean all the same.
        keys: What to break down by.

    Returns:
        `overall`, then `key=value` for each key in the order given; numbers come before texts, both in order.

    Raises:
        E2LLMError: If there are no rows, or no row has one of the keys.
    """
    rows = list(rows)
    if not rows:
        raise E2LLMError("no answers to take the accuracy of")
    accuracies = {"overall": _mean_correct(rows)}
    for key in keys:
        values = {row[key] for row in rows if key in row}
        if not values:
            raise E2LLMError(f"no answer has the group {key!r}; there are {', '.join(sorted(rows[0]))}")
        for value in sorted(values, key=lambda value: (isinstance(value, str), value)):
            accuracies[f"{key}={value}"] = _mean_correct([row for row in rows if row.get(key) == value])
    return accuracies


def perplexity(loss_nats: float) -> float:
    """The exponential of a loss in nats per token; infinity where a double cannot hold it (above 700 nats).

    Of a set of answers, give their mean loss: the mean of their perplexities is another, higher figure.
    """
    return math.exp(loss_nats) if loss_nats < 700 else math.inf


def _mean_correct(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(row["correct"]) for row in rows) / len(rows)
