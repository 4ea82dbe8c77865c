"""Metrics of answers against references: words in common, values found, the option chosen, text overlap."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.words import split_scripts, words_to_compare

AnswerMetric = Callable[[str, Sequence[str]], float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f]")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TRIVIA_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´", " "))
_ROUGE_NAMES = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l", "rougeLsum": "rouge_lsum"}
_SENTENCE_END = re.compile(r"""([.!?]+)["'”’)\]]*\s+""")
_ABBREVIATION = re.compile(
    r"[a-z]|adm|aug|ave|bros|co|col|corp|dec|dr|feb|ft|gen|inc|jan|jr|lt|ltd|maj|messrs|mr|mrs|ms|nov|oct|"
    r"ph\.d|prof|rep|sen|sept|sr|st|vs|a\.m|d\.c|p\.m|u\.k|u\.n|u\.s",
    re.IGNORECASE,
)
_STARTER = re.compile(
    r"[\"'“‘(]*(?:A|After|All|Although|An|And|As|At|But|By|Each|For|He|Her|His|How|However|If|In|It|Its|"
    r"No|On|One|Or|She|So|That|The|Their|Then|There|These|They|This|Those|To|We|What|When|Where|Which|"
    r"While|Who|Why|With|Yet|You)\b"
)


def normalize_answer(text: str) -> str:
    """Normalise as SQuAD does: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def normalize_trivia_answer(text: str) -> str:
    """Normalise as TriviaQA's evaluation script does (arXiv 1705.03551).

    As SQuAD, but punctuation becomes a space ("a-b" is two words), and the quotes ‘ ’ ´ are punctuation.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_TRIVIA_SPACES)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the references after normalisation, else 0 (SQuAD v2.0's script).

    References of nothing but articles and punctuation are left out. If all are, the answer is "no answer",
    which only an empty prediction matches.
    """
    return float(normalize_answer(prediction) in _squad_references(references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the word F1 of the best reference after normalisation, from 0 to 1.

    As SQuAD v2.0's script: references as in `exact_match`; if the prediction or the reference is empty, 1 if
    both are, else 0. SQuAD v1.1's and LongBench's scripts give 0 to two empty ones and keep references of
    articles and punctuation; they are the same otherwise. Chosen here: other scripts are split as in
    `rouge_scores`; the scripts take a Chinese sentence for one word.
    """
    ours = _words(normalize_answer(prediction))
    theirs = [_words(reference) for reference in _squad_references(references)]
    return max(_word_f1(ours, words) if ours and words else float(ours == words) for words in theirs)


def trivia_exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the references after TriviaQA's normalisation, else 0."""
    check_references(references)
    return float(normalize_trivia_answer(prediction) in map(normalize_trivia_answer, references))


def trivia_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the word F1 of the best reference after TriviaQA's normalisation; 0 for two empty texts."""
    check_references(references)
    ours = _words(normalize_trivia_answer(prediction))
    return max(_word_f1(ours, _words(normalize_trivia_answer(reference))) for reference in references)


def _squad_references(references: Sequence[str]) -> list[str]:
    check_references(references)
    return [text for text in map(normalize_answer, references) if text] or [""]


def _words(text: str) -> list[str]:
    """Return the words of a normalized text; those of Latin letters end at white space alone."""
    return [part for word in text.split() for part in split_scripts(word)]


def _word_f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Return F1 of two bags of words, in the order of operations of the official scripts."""
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def string_match(prediction: str, references: Sequence[str]) -> float:
    """Return the share of the references that the prediction contains, case-insensitively, from 0 to 1.

    RULER's `string_match_all` (arXiv 2404.06654) of one answer, for all its tasks but question answering. As
    there, control characters of the prediction become line ends, and the prediction is stripped.
    """
    check_references(references)
    text = _CONTROL_CHARACTERS.sub("\n", prediction.strip()).strip().lower()
    return sum(reference.lower() in text for reference in references) / len(references)


def string_match_any(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction contains any of the references, case-insensitively, else 0.

    RULER's `string_match_part` (arXiv 2404.06654) of one answer, for its question answering tasks.
    """
    return float(string_match(prediction, references) > 0)


def choice_from_text(prediction: str, num_options: int, *, lenient: bool = True) -> int | None:
    """Return the index of the option that an answer names by its letter; None if it names none, or several.

    First as LongBench v2's evaluation code reads it (arXiv 2412.15204): without asterisks, the first "The
    correct answer is (B)", else the first "The correct answer is B", case-sensitive. It looks at one letter
    only, so "The correct answer is All of them" means A, there and here.

    Otherwise, chosen here, the first of these that is found:

    1. the answer or its first line is a letter and no other word: "B", "(b).", "[B]"
    2. it begins with a marked letter: "(B) the cat", "B. the cat", "b: the cat"
    3. "answer", "option" or "choice" before a capital letter: "Answer: B", "the answer is **(C)**"; all of
       them agree
    4. capital letters in brackets, all the same: "I think (B) is right"

    Args:
        prediction: The answer.
        num_options: Number of options, from 1 to 26.
        lenient: False reads as LongBench v2 does and no further, for figures to compare with published ones.

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
    for pattern in (
        rf"[\W_]*([{either}])[\W_]*\Z",
        rf"[(\[]?([{either}])[)\]]",
        rf"([{either}])[.:](?=\s)",
    ):
        if match := re.match(pattern, first_line):
            return letters.index(match[1].upper())
    for pattern in (
        rf"(?i:\b(?:answer|option|choice)(?:\s+is|\s+was)?\s*:?\s*)[(\[\"']?([{letters}])\b(?!['’])",
        rf"[(\[]([{letters}])[)\]]",
    ):
        if found := set(re.findall(pattern, text)):
            return letters.index(found.pop()) if len(found) == 1 else None
    return None


def perplexity(loss_nats: float) -> float:
    """Return the exponential of a loss in nats per token; infinity above 700 nats, beyond a double.

    For a set of answers, give their mean loss: the mean of their perplexities is another, higher figure.
    """
    return math.exp(loss_nats) if loss_nats < 700 else math.inf


def rouge_scores(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Return ROUGE F-measures by the rouge_score package with Porter stemming, each of its best reference.

    ROUGE-Lsum compares sentence by sentence; sentences end as in `split_sentences`, and at every line end.
    The scripts of SQuALITY (arXiv 2205.11465) and SCROLLS (arXiv 2201.03533; QMSum and GovReport) split with
    NLTK's Punkt model instead, which has to be downloaded; where both split alike the scores are equal to
    the last digit.

    The package reads the letters a-z and digits only, and takes "Größe" and "Grüße" for one word. Chosen
    here: words with any other letter or an accent count as they stand, and scripts without spaces (Chinese,
    Japanese, Korean, Thai, ...) by single characters. Scores of ASCII texts are the package's.

    Returns:
        `rouge_1`, `rouge_2`, `rouge_l` and `rouge_lsum`, from 0 to 1.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("rouge_score", "eval") from error
    check_references(references)
    scorer = RougeScorer(list(_ROUGE_NAMES), tokenizer=_RougeWords())
    lines = ["\n".join(split_sentences(reference)) for reference in references]
    best = scorer.score_multi(lines, "\n".join(split_sentences(prediction)))
    return {name: float(best[key].fmeasure) for key, name in _ROUGE_NAMES.items()}


class _RougeWords:
    """Splits a text for rouge_score, which calls `tokenize`."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._split_ascii = DefaultTokenizer(use_stemmer=True).tokenize

    def tokenize(self, text: str) -> list[str]:
        """Return the words, those of ASCII letters stemmed."""
        return words_to_compare(text, self._split_ascii)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the ROUGE-L F-measure of the best reference, as `rouge_scores` does."""
    return rouge_scores(prediction, references)["rouge_l"]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order; line breaks inside them stay.

    A rule chosen here, so that no model has to be downloaded. It follows NLTK's Punkt model for English: of
    the 772 summaries of SQuALITY's dev and QMSum's validation parts, both split 767 alike.

    A sentence ends at `.`, `!` or `?` with its closing quotes and brackets before white space; not at the
    full stop of an initial or of a common title, month or the like, unless a word such as "The" or "He"
    follows; and not at an ellipsis before lower case. As with Punkt, "e.g." and "etc." end one.
    """
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if _ends_sentence(text[start : match.start()], match[1], text[match.end() : match.end() + 12]):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(before: str, mark: str, after: str) -> bool:
    if set(mark) != {"."}:
        return True
    if len(mark) > 1:
        return not after[:1].islower()
    word = before.rsplit(maxsplit=1)[-1].lstrip("\"'“‘([") if before.strip() else ""
    return not _ABBREVIATION.fullmatch(word) or bool(_STARTER.match(after))


def g_mean(rouge_1: float, rouge_2: float, rouge_l: float) -> float:
    """Return the geometric mean of ROUGE-1, -2 and -L, from 0 to 1 (SCROLLS, arXiv 2201.03533, section 4).

    The published figures are the geometric mean of the three means over a data set. For a single answer it
    is 0 as soon as no word pair agrees, so the mean of these is another, lower figure: give means here.
    """
    return float((rouge_1 * rouge_2 * rouge_l) ** (1.0 / 3.0))


def bleu(prediction: str, reference: str) -> float:
    """Return sentence BLEU with up to four-word sequences, by the sacrebleu package, from 0 to 1.

    The package's defaults: tokenizer `13a` (case-sensitive, splits off punctuation; text without spaces,
    such as Chinese, is one word), exponential smoothing of orders without a match, and only the orders that
    a short prediction has.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    try:
        from sacrebleu import sentence_bleu
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "eval") from error
    # Equal texts come out at 100.00000000000004.
    return min(1.0, float(sentence_bleu(prediction, [reference]).score) / 100)


def edit_similarity(prediction: str, reference: str) -> float:
    """Return twice the longest common subsequence over both lengths, by rapidfuzz, from 0 to 1.

    RepoBench (arXiv 2306.03091) and LongBench (arXiv 2308.14508) report fuzzywuzzy's `ratio`: the same
    number rounded to whole percents. Two departures: this one is not rounded, and two empty texts are equal
    here, 0 there.

    Raises:
        MissingExtraError: If rapidfuzz is not installed.
    """
    try:
        from rapidfuzz import fuzz
    except ImportError as error:
        raise MissingExtraError("rapidfuzz", "eval") from error
    return float(fuzz.ratio(prediction, reference)) / 100


def character_error_rate(prediction: str, reference: str) -> float:
    """Return insertions, deletions and replacements per character of the reference: 0 is perfect, 1 no limit.

    Characters are Unicode code points; case, white space and the ends of the texts count. Against an empty
    reference every character of the prediction is an error (chosen here).

    Raises:
        MissingExtraError: If rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise MissingExtraError("rapidfuzz", "eval") from error
    return int(Levenshtein.distance(prediction, reference)) / max(1, len(reference))


def check_references(references: Sequence[str]) -> None:
    """Raise `E2LLMError` if there is no reference, or one text was given instead of a list."""
    if isinstance(references, str):
        raise E2LLMError(
            f"references must be a list of texts, got the text {references[:40]!r}; put it in a list"
        )
    if not references:
        raise E2LLMError("there is no reference to score against; give [''] for a question without an answer")
