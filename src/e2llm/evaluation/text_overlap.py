"""How much of a text stands in another: ROUGE, BLEU, edit similarity and character errors."""

import re
from collections.abc import Mapping, Sequence

from e2llm.errors import E2LLMError, MissingExtraError

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


def rouge_scores(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """F-measures of ROUGE by the rouge_score package with Porter stemming, each the best of the references.

    ROUGE-Lsum compares sentence by sentence; a sentence ends where `split_sentences` says and at every line
    end. The scripts of SQuALITY (arXiv 2205.11465), of SCROLLS (arXiv 2201.03533; QMSum and GovReport) and
    of the summarization examples they come from split with NLTK's Punkt model instead, which has to be
    downloaded; where both split alike the scores are the same to the last digit. Each metric takes its own
    best reference, as SQuALITY and SCROLLS do. The package reads the letters a-z and digits only: in other
    scripts than the Latin one all scores are 0.

    Returns:
        `rouge_1`, `rouge_2`, `rouge_l` and `rouge_lsum`, from 0 to 1.

    Raises:
        E2LLMError: If there is no reference.
        MissingExtraError: If the package is not installed.
    """
    return _rouge(tuple(_ROUGE_NAMES), prediction, references)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure with stemming of the best reference, by the rouge_score package, from 0 to 1.

    Raises:
        E2LLMError: If there is no reference.
        MissingExtraError: If the package is not installed.
    """
    return _rouge(("rougeL",), prediction, references)["rouge_l"]


def _rouge(names: Sequence[str], prediction: str, references: Sequence[str]) -> dict[str, float]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("rouge_score", "eval") from error
    check_references(references)
    scorer = RougeScorer(list(names), use_stemmer=True)
    lines = ["\n".join(split_sentences(reference)) for reference in references]
    best = scorer.score_multi(lines, "\n".join(split_sentences(prediction)))
    return {_ROUGE_NAMES[name]: float(best[name].fmeasure) for name in names}


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, in order; line breaks inside them stay.

    A rule chosen here, so that no model has to be downloaded. It follows NLTK's Punkt model for English: of
    the 772 summaries of SQuALITY's dev and QMSum's validation parts, both split 767 alike.

    A sentence ends at `.`, `!` or `?` with its closing quotes and brackets before white space; not at the
    full stop of an initial or of a common title, month or the like, unless a word such as "The" or "He"
    follows; and not at an ellipsis that goes on in lower case. As with Punkt, "e.g." and "etc." end one.
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


def g_mean(scores: Mapping[str, float]) -> float:
    """Geometric mean of ROUGE-1, -2 and -L, from 0 to 1 (SCROLLS, arXiv 2201.03533, section 4).

    The published figures are the geometric mean of the three means over a data set. Of a single answer it is
    0 as soon as no word pair agrees, so the mean of these is another, lower figure: give means here.

    Args:
        scores: Has `rouge_1`, `rouge_2` and `rouge_l`, as `rouge_scores` returns them; others are not read.
    """
    return float((scores["rouge_1"] * scores["rouge_2"] * scores["rouge_l"]) ** (1.0 / 3.0))


def bleu(prediction: str, reference: str) -> float:
    """Sentence BLEU with up to four-word sequences, by the sacrebleu package, from 0 to 1.

    The package's defaults: tokenizer `13a` (that of mteval-v13a: splits off punctuation, keeps upper and
    lower case; text without spaces, such as Chinese, is one word), exponential smoothing of orders without a
    match, and only the orders that a short prediction has. The package's figure divided by 100.

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
    """Twice the longest common subsequence over both lengths, in characters, by rapidfuzz, from 0 to 1.

    RepoBench (arXiv 2306.03091) and LongBench (arXiv 2308.14508) report fuzzywuzzy's `ratio`: the same
    number rounded to whole percents. Two departures: this one is not rounded, and two empty texts are equal
    here, 0 there. fuzzywuzzy without python-Levenshtein takes difflib's matching blocks, which are not
    always the longest, and so gives now and then a lower figure.

    Raises:
        MissingExtraError: If rapidfuzz is not installed.
    """
    try:
        from rapidfuzz import fuzz
    except ImportError as error:
        raise MissingExtraError("rapidfuzz", "eval") from error
    return float(fuzz.ratio(prediction, reference)) / 100


def character_error_rate(prediction: str, reference: str) -> float:
    """Insertions, deletions and replacements per character of the reference: 0 is perfect, above 1 happens.

    Characters are Unicode code points; upper and lower case, white space and the ends of the texts count.
    Against an empty reference every character of the prediction is an error (chosen here).

    Raises:
        MissingExtraError: If rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise MissingExtraError("rapidfuzz", "eval") from error
    return int(Levenshtein.distance(prediction, reference)) / max(1, len(reference))


def check_references(references: Sequence[str]) -> None:
    """Raise if there is nothing to score against.

    Raises:
        E2LLMError: If there is no reference, or one text was given in place of a list of them.
    """
    if isinstance(references, str):
        raise E2LLMError(
            f"references must be a list of texts, got the text {references[:40]!r}; put it in a list"
        )
    if not references:
        raise E2LLMError("no reference to score against; a question without an answer has the reference ''")
