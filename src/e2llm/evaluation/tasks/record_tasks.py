"""Tasks whose questions are records: validation parts of public data sets, and files of a user's own.

The prompt is that of the record, as a model trains on it. Every item has the groups of its record, and
`length_tokens`, the smallest power of two that is no less than the tokens of its context.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, Task, TaskKind, TaskRequest
from e2llm.evaluation.metrics import (
    AnswerMetric,
    choice_from_text,
    exact_match,
    g_mean,
    rouge_l,
    rouge_scores,
    string_match,
    token_f1,
    trivia_exact_match,
    trivia_f1,
)
from e2llm.evaluation.tasks.continuations import MAX_RESTATED_TOKENS, restatement_scores
from e2llm.evaluation.tasks.record_sources import RecordSource, find_records, spread_records
from e2llm.evaluation.tasks.stretches import runs_of_chunks
from e2llm.prompts import OPTION_LETTERS, UNDERSTANDING_PROMPT
from e2llm.records import Record, missing_file, read_records

_LIST_SEPARATOR = re.compile(r",\s*(?:and\s+)?|\s+and\s+")
_PASSAGES_PER_CONTEXT = 8


class RecordTask(Task):
    """Items made of records, at most `limit`, over as many contexts as possible.

    Attributes:
        scored_by: Metrics by the names of the scores.
    """

    scored_by: ClassVar[Mapping[str, AnswerMetric]] = {}

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make the items; those with one context follow each other.

        A smaller limit chooses a part of the items of a larger one, which may be between others there.

        Raises:
            E2LLMError: If the records are missing, or hold no question.
            FileNotFoundError: If a file is missing.
        """
        return self._made(self.source(request), request)

    @abstractmethod
    def source(self, request: TaskRequest) -> RecordSource:
        """Find the records."""

    def item(self, name: str, record: Record) -> Item:
        """Make the item of a record, without its groups."""
        references = (record.answer, *record.references)
        return Item(self.name, name, record.context, record.prompt, references, evidence=record.evidence)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Score a prediction against the best reference."""
        return {name: metric(prediction, item.references) for name, metric in self.scored_by.items()}

    def max_items(self, request: TaskRequest) -> int:
        """Return the limit: records have their own lengths."""
        return request.limit

    def _made(self, source: RecordSource, request: TaskRequest) -> Iterator[Item]:
        context, length = "", 0
        # the seed's name has no path in it, so a file has the same items wherever it lies
        for name, record in spread_records(source, request.limit, f"{request.seed}/{type(self).name}"):
            if record.context is not context:
                context, length = record.context, length_group(request.count_tokens(record.context))
            item = self.item(name, record)
            yield replace(item, groups={**record.groups, "length_tokens": length})
        if not context:
            raise E2LLMError(f"{self.name}: no record has a question; give records with prompt and answer")


def length_group(num_tokens: int) -> int:
    """Return the smallest power of two that is no less than a number of tokens."""
    return 1 << max(0, num_tokens - 1).bit_length()


class DataSetTask(RecordTask):
    """The validation part of a public data set; its name is the converter's."""

    def source(self, request: TaskRequest) -> RecordSource:
        """Find the records in the data folder or the package (`find_records`)."""
        return find_records(self.name, request.data)[1]

    def data_file(self, data: Path | None) -> Path | None:
        """Return the file or folder of the records; raises as `find_records`."""
        return find_records(self.name, data)[0]


class SummaryTask(DataSetTask):
    """Long answers, by ROUGE and the geometric mean of ROUGE-1, -2 and -L.

    The G-mean of SCROLLS (arXiv 2201.03533) is the geometric mean of the three means over all answers, which
    the summary of a run computes; `g_mean` of one answer serves to compare answers with each other.
    """

    metric = "g_mean"

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return ROUGE against the best reference, and `g_mean`."""
        scores = rouge_scores(prediction, item.references)
        return {"g_mean": g_mean(scores["rouge_1"], scores["rouge_2"], scores["rouge_l"]), **scores}


class ChoiceTask(DataSetTask):
    """Questions with options, scored by accuracy; the prompt of the record lists the options."""

    metric = "accuracy"
    kind: ClassVar[TaskKind] = "choose"
    max_new_tokens = 16

    def item(self, name: str, record: Record) -> Item:
        """Make the item of a record; the text of its right option is the reference.

        Raises:
            E2LLMError: If it has no options.
        """
        if not record.options:
            raise E2LLMError(f"{self.name}, record {name}: 'options' is missing; prepare the data set again")
        gold = OPTION_LETTERS.index(record.answer)
        references = (record.options[gold],)
        return replace(super().item(name, record), references=references, options=record.options, gold=gold)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return whether the prediction names the right option by its text or letter."""
        text = prediction.strip()
        is_text = text in item.options
        choice = item.options.index(text) if is_text else choice_from_text(text, len(item.options))
        return {"accuracy": float(choice == item.gold)}


def _task(base: type[DataSetTask], name: str, description: str, **facts: Any) -> type[DataSetTask]:
    """Return the task of a data set: a kind of task with some of its attributes."""
    return type(f"{name}_task", (base,), {"name": name, "description": description, **facts})


# COVID-QA, SciSummNet and LongBench v2 have no validation part, so all of them is asked. NarrativeQA's F1 is
# as in SCROLLS; any alias counts in TriviaQA, the best of four references in SQuALITY.
DATA_SET_TASKS: tuple[type[DataSetTask], ...] = (
    _task(
        DataSetTask,
        "fairytaleqa",
        "questions on whole fairy tales, answered in a few words",
        metric="rouge_l",
        max_new_tokens=48,
        scored_by={"rouge_l": rouge_l, "f1": token_f1},
    ),
    _task(
        DataSetTask,
        "narrativeqa",
        "questions on whole books and film scripts, answered in a few words",
        metric="f1",
        max_new_tokens=48,
        scored_by={"rouge_l": rouge_l, "f1": token_f1},
    ),
    _task(
        DataSetTask,
        "triviaqa",
        "trivia questions on whole Wikipedia pages, answered in a few words",
        metric="f1",
        max_new_tokens=32,
        scored_by={"f1": trivia_f1, "em": trivia_exact_match},
    ),
    _task(
        DataSetTask,
        "covid_qa",
        "questions on whole papers about coronaviruses, answered by a passage",
        metric="f1",
        scored_by={"f1": token_f1, "em": exact_match},
    ),
    _task(SummaryTask, "qmsum", "queries on whole meetings, answered by a summary", max_new_tokens=192),
    _task(
        SummaryTask,
        "squality",
        "questions on whole short stories, answered by a summary of about 200 words",
        max_new_tokens=384,
    ),
    _task(
        SummaryTask,
        "govreport",
        "reports of the United States' government, summarized in about 500 words",
        max_new_tokens=768,
    ),
    _task(
        SummaryTask, "scisummnet", "scientific papers without their abstract, summarized", max_new_tokens=256
    ),
    _task(ChoiceTask, "quality", "questions with four options on whole short stories and articles"),
    _task(
        ChoiceTask,
        "longbench_v2",
        "hard questions with four options on texts of 8 thousand to 2 million words",
    ),
)


class FileTask(RecordTask):
    """Questions of a user's own records.

    Args:
        file: A JSONL file of records.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        # of the instance, so that two files in one run are two tasks
        self.name = f"{type(self).name}={file}"  # type: ignore[misc]

    def source(self, request: TaskRequest) -> RecordSource:
        """Return the records of the file."""
        return partial(read_records, self.data_file(request.data))

    def data_file(self, data: Path | None) -> Path:
        """Return the file, which exists.

        Raises:
            FileNotFoundError: If it is missing.
        """
        if not self.file.is_file():
            raise FileNotFoundError(missing_file(self.file))
        return self.file


class AnswersTask(FileTask):
    """Answers in words, by ROUGE-L, F1 and exact match against the best reference."""

    name = "answers"
    description = "a records file of yours, by ROUGE-L, word F1 and exact match"
    metric = "rouge_l"
    max_new_tokens = 48
    scored_by: ClassVar = {"rouge_l": rouge_l, "f1": token_f1, "em": exact_match}


class RecallTask(FileTask):
    """Answers by the share of the values that they should list (RULER's string match)."""

    name = "recall"
    description = "a records file of yours whose answers are values, separated by commas or 'and'"
    metric = "recall"
    max_new_tokens = 48
    scored_by: ClassVar = {"recall": string_match}

    def item(self, name: str, record: Record) -> Item:
        """Make the item of a record; every value of its answer is a reference: `4, 5 and 6` has three."""
        values = [value.strip(" .") for value in _LIST_SEPARATOR.split(record.answer)]
        references = tuple(value for value in values if value) or (record.answer,)
        return replace(super().item(name, record), references=references)


class RestatedRecordsTask(FileTask):
    """Passages of each context of the file, spread evenly over it, restated word for word.

    A passage is a run of whole chunks of at most the length asked for, and `MAX_RESTATED_TOKENS`; there are
    up to eight of each length from one context. Records need neither prompt nor answer.
    """

    name = "restatement"
    description = "passages of a records file of yours, restated word for word"
    metric = "token_accuracy"
    kind: ClassVar[TaskKind] = "continue"
    max_new_tokens = MAX_RESTATED_TOKENS

    def source(self, request: TaskRequest) -> RecordSource:
        """Return the passages, each as a record whose answer is its context."""
        lengths = list(dict.fromkeys(min(length, MAX_RESTATED_TOKENS) for length in request.lengths))
        return partial(_passages, super().source(request), lengths, request.count_tokens)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return character error rate and BLEU of the generated text."""
        return restatement_scores(prediction, item.references[0])


def _passages(
    records: RecordSource, lengths: Sequence[int], count_tokens: Callable[[str], int]
) -> Iterator[Record]:
    seen: set[bytes] = set()
    for number, record in enumerate(records(), start=1):
        key = blake2b(record.context.encode(), digest_size=16).digest()
        if key in seen:
            continue
        seen.add(key)
        for length in lengths:
            runs = list(runs_of_chunks(record.context, length, count_tokens))
            count = min(_PASSAGES_PER_CONTEXT, len(runs))
            for place in ((2 * index + 1) * len(runs) // (2 * count) for index in range(count)):
                name = f"{record.id or f'record-{number}'}/{length}/{place}"
                yield Record(runs[place], UNDERSTANDING_PROMPT, runs[place], id=name, source=record.source)


FILE_TASKS: dict[str, type[FileTask]] = {
    task.name: task for task in (AnswersTask, RecallTask, RestatedRecordsTask)
}
