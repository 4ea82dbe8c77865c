"""Restating passages of a user's own records."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import ClassVar

from e2llm.evaluation.items import Item, TaskKind, TaskRequest
from e2llm.evaluation.likelihood_tasks import MAX_RESTATED_TOKENS, restatement_scores
from e2llm.evaluation.record_sources import RecordSource
from e2llm.evaluation.record_tasks import RecordsTask
from e2llm.evaluation.stretches import runs_of_chunks
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record

_PASSAGES_PER_CONTEXT = 8


class RestatedRecordsTask(RecordsTask):
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
        """The passages, each as a record whose answer is its context.

        Raises:
            FileNotFoundError: If the file is not there.
        """
        lengths = tuple(dict.fromkeys(min(length, MAX_RESTATED_TOKENS) for length in request.lengths))
        return partial(_passages, super().source(request), lengths, request.count_tokens)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Character error rate and BLEU of what was generated."""
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
