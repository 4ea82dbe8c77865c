"""Tasks whose questions are records: the public data sets' validation parts, and files of a user's own.

The prompt is that of the record, as a model trains on it. Every item has the groups of its record, and
`length_tokens`, the smallest power of two that is no less than the tokens of its context.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, Task, TaskKind, TaskRequest
from e2llm.evaluation.record_sources import RecordSource, find_records, spread_records
from e2llm.prompts import OPTION_LETTERS
from e2llm.records import Record, missing_file, read_records

_LIST_SEPARATOR = re.compile(r",\s*(?:and\s+)?|\s+and\s+")


def split_values(answer: str) -> list[str]:
    """The values of a list in words: `4, 5 and 6` has three."""
    return [value.strip(" .") for value in _LIST_SEPARATOR.split(answer) if value.strip(" .")]


class RecordTask(Task):
    """Items made of records, at most `limit` over as many contexts as can be."""

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make the items; those with one context follow each other.

        A smaller limit chooses a part of the items of a larger one, which may stand between others there.

        Raises:
            E2LLMError: If the records are not there, or hold no question.
            FileNotFoundError: If a file is missing.
        """
        return self._made(self.source(request), request)

    @abstractmethod
    def source(self, request: TaskRequest) -> RecordSource:
        """Find the records."""

    def item(self, name: str, record: Record) -> Item:
        """The item of a record, without groups of its own."""
        references = (record.answer, *record.references)
        return Item(self.name, name, record.context, record.prompt, references, evidence=record.evidence)

    def _made(self, source: RecordSource, request: TaskRequest) -> Iterator[Item]:
        context, length = "", 0
        # the seed's name has no path in it, so that a file has the same items wherever it lies
        for name, record in spread_records(source, request.limit, f"{request.seed}/{type(self).name}"):
            if record.context is not context:
                context, length = record.context, length_group(request.count_tokens(record.context))
            item = self.item(name, record)
            yield replace(item, groups={**record.groups, "length_tokens": length})
        if not context:
            raise E2LLMError(f"{self.name}: no record has a question; give records with prompt and answer")


def length_group(num_tokens: int) -> int:
    """The smallest power of two that is no less than a number of tokens."""
    return 1 << max(0, num_tokens - 1).bit_length()


class DataSetTask(RecordTask):
    """The validation part of a public data set; its name is the converter's."""

    def source(self, request: TaskRequest) -> RecordSource:
        """Find the records in the data folder or the package (`find_records`)."""
        return find_records(self.name, request.data)


class SummaryTask(DataSetTask):
    """Long answers, by ROUGE and the geometric mean of ROUGE-1, -2 and -L.

    The G-mean of SCROLLS (arXiv 2201.03533) is the geometric mean of the three means over all answers, which
    is for whoever sums up; `g_mean` of one answer serves to compare answers with each other.
    """

    metric = "g_mean"

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """ROUGE against the best reference, and `g_mean`."""
        from e2llm.evaluation.metrics import g_mean, rouge_scores

        scores = rouge_scores(prediction, item.references)
        return {"g_mean": g_mean(scores), **scores}


class WordedAnswerTask(DataSetTask):
    """Answers in words of their own, by ROUGE-L and word F1."""

    max_new_tokens = 48

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """ROUGE-L and F1 against the best reference."""
        from e2llm.evaluation.metrics import rouge_l, token_f1

        return {
            "rouge_l": rouge_l(prediction, item.references),
            "f1": token_f1(prediction, item.references),
        }


class ChoiceTask(DataSetTask):
    """Which of some options is right, by accuracy; the prompt of the record lists them."""

    metric = "accuracy"
    kind: ClassVar[TaskKind] = "choose"
    max_new_tokens = 16

    def item(self, name: str, record: Record) -> Item:
        """The item of a record; the text of its right option is the reference.

        Raises:
            E2LLMError: If it has no options.
        """
        if not record.options:
            raise E2LLMError(f"{self.name}, record {name}: no 'options'; prepare the data set anew")
        gold = OPTION_LETTERS.index(record.answer)
        references = (record.options[gold],)
        return replace(super().item(name, record), references=references, options=record.options, gold=gold)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Whether the prediction, an option's text or words that name a letter, means the right option."""
        from e2llm.evaluation.metrics import choice_from_text

        text = prediction.strip()
        is_text = text in item.options
        choice = item.options.index(text) if is_text else choice_from_text(text, len(item.options))
        return {"accuracy": float(choice == item.gold)}


class FairytaleQATask(WordedAnswerTask):
    """FairytaleQA (arXiv 2203.13947)."""

    name = "fairytaleqa"
    description = "questions on whole fairy tales, answered in a few words"
    metric = "rouge_l"


class NarrativeQATask(WordedAnswerTask):
    """NarrativeQA (arXiv 1712.07040), on whole stories; F1 as in SCROLLS."""

    name = "narrativeqa"
    description = "questions on whole books and film scripts, answered in a few words"
    metric = "f1"


class TriviaQATask(DataSetTask):
    """TriviaQA (arXiv 1705.03551), on the pages that come with each question; any alias counts."""

    name = "triviaqa"
    description = "trivia questions on whole Wikipedia pages, answered in a few words"
    metric = "f1"
    max_new_tokens = 32

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """F1 and exact match against the best alias, after TriviaQA's own normalisation."""
        from e2llm.evaluation.metrics import trivia_exact_match, trivia_f1

        return {
            "f1": trivia_f1(prediction, item.references),
            "em": trivia_exact_match(prediction, item.references),
        }


class CovidQATask(DataSetTask):
    """COVID-QA; it has no validation part, so all of it is asked."""

    name = "covid_qa"
    description = "questions on whole papers about coronaviruses, answered by a passage"
    metric = "f1"
    max_new_tokens = 64

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """F1 and exact match (SQuAD) against the best reference."""
        from e2llm.evaluation.metrics import exact_match, token_f1

        return {
            "f1": token_f1(prediction, item.references),
            "em": exact_match(prediction, item.references),
        }


class QMSumTask(SummaryTask):
    """QMSum (arXiv 2104.05938)."""

    name = "qmsum"
    description = "queries on whole meetings, answered by a summary"
    max_new_tokens = 192


class SqualityTask(SummaryTask):
    """SQuALITY (arXiv 2205.11465); the best of four references counts."""

    name = "squality"
    description = "questions on whole short stories, answered by a summary of about 200 words"
    max_new_tokens = 384


class GovReportTask(SummaryTask):
    """GovReport (arXiv 2104.02112)."""

    name = "govreport"
    description = "reports of the United States' government, summarized in about 500 words"
    max_new_tokens = 768


class SciSummNetTask(SummaryTask):
    """SciSummNet (arXiv 1909.01716); it has no validation part, so all of it is asked."""

    name = "scisummnet"
    description = "scientific papers without their abstract, summarized"
    max_new_tokens = 256


class QualityTask(ChoiceTask):
    """QuALITY (arXiv 2112.08608)."""

    name = "quality"
    description = "questions with four options on whole short stories and articles"


class LongBenchV2Task(ChoiceTask):
    """LongBench v2 (arXiv 2412.15204), broken down by difficulty, length and domain; all of it is asked."""

    name = "longbench_v2"
    description = "hard questions with four options on texts of 8 thousand to 2 million words"


class RecordsTask(RecordTask):
    """Questions of a user's own records.

    Args:
        file: A JSONL file of records.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        # of the instance, so that two files in one run are two tasks
        self.name = f"{type(self).name}={file}"  # type: ignore[misc]

    def source(self, request: TaskRequest) -> RecordSource:
        """The file.

        Raises:
            FileNotFoundError: If it is not there.
        """
        return partial(read_records, self.existing_file())

    def existing_file(self) -> Path:
        """The file, which is there.

        Raises:
            FileNotFoundError: If it is not.
        """
        if not self.file.is_file():
            raise FileNotFoundError(missing_file(self.file))
        return self.file


class AnswersTask(RecordsTask):
    """Answers by how far they are those of the records."""

    name = "answers"
    description = "a records file of yours, by ROUGE-L, word F1 and exact match"
    metric = "rouge_l"
    max_new_tokens = 48

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """ROUGE-L, F1 and exact match against the best reference."""
        from e2llm.evaluation.metrics import exact_match, rouge_l, token_f1

        return {
            "rouge_l": rouge_l(prediction, item.references),
            "f1": token_f1(prediction, item.references),
            "em": exact_match(prediction, item.references),
        }


class RecallTask(RecordsTask):
    """Answers by which of the values that they should list stand in them."""

    name = "recall"
    description = "a records file of yours whose answers are values, separated by commas or 'and'"
    metric = "recall"
    max_new_tokens = 48

    def item(self, name: str, record: Record) -> Item:
        """The item of a record; every value of its answer is a reference."""
        item = super().item(name, record)
        return replace(item, references=tuple(split_values(record.answer)) or (record.answer,))

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """The share of the values that stand in the prediction (RULER's string match)."""
        from e2llm.evaluation.metrics import string_match

        return {"recall": string_match(prediction, item.references)}
