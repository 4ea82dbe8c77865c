"""Measures of one model: recall of needles, restatement, answers, and its decoder without soft tokens."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.metrics import rouge_l, string_match, token_f1
from e2llm.evaluation.record_tasks import split_values
from e2llm.evaluation.statistics import bootstrap_interval
from e2llm.files import write_atomically
from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record, read_records

NO_SOFT_TOKENS = "no soft tokens"

_ANSWER_TOKENS = 48
_PASSAGES_PER_CONTEXT = 8


@dataclass(frozen=True)
class Outcome:
    """One record under one system: what it said and its scores, each from 0 to 1 unless named otherwise."""

    prediction: str
    reference: str
    scores: dict[str, float]


def measure_recall(engine: Engine, record: Record, context: Context, soft_tokens: int | None) -> Outcome:
    """Whether the values that a needle record asks for stand in the answer."""
    prediction = engine.ask(
        context, record.prompt, soft_tokens=soft_tokens, max_new_tokens=_ANSWER_TOKENS
    ).text
    return Outcome(
        prediction, record.answer, {"recall": string_match(prediction, split_values(record.answer))}
    )


def measure_answer(engine: Engine, record: Record, context: Context, soft_tokens: int | None) -> Outcome:
    """ROUGE-L and word F1 of an answer against the best of its references."""
    prediction = engine.ask(
        context, record.prompt, soft_tokens=soft_tokens, max_new_tokens=_ANSWER_TOKENS
    ).text
    references = [record.answer, *record.references]
    scores = {"rouge_l": rouge_l(prediction, references), "f1": token_f1(prediction, references)}
    return Outcome(prediction, record.answer, scores)


def measure_restatement(engine: Engine, record: Record, context: Context, soft_tokens: int | None) -> Outcome:
    """Next-token accuracy and loss (nats) on the text, given its soft tokens and the true text so far."""
    text = record.context.strip()
    (found,) = engine.score(context, UNDERSTANDING_PROMPT, [text], soft_tokens=soft_tokens)
    scores = {"token_accuracy": found.token_accuracy, "loss_nats": found.mean_loss_nats}
    return Outcome(engine.processor.decode_answer(found.greedy_ids), text, scores)


EMPTY_CONTEXT = Context.empty()

Measure = Callable[[Engine, Record, Context, int | None], Outcome]
MEASURES: dict[str, Measure] = {
    "recall": measure_recall,
    "restatement": measure_restatement,
    "answers": measure_answer,
}


def measure_model(
    engine: Engine,
    model_name: str,
    tasks: Sequence[tuple[str, str]],
    soft_tokens: Sequence[int],
    limit: int,
    max_chunks: int | None,
    output: Path,
) -> dict[str, Any]:
    """Run measures for each number of soft tokens and for the decoder without any, and save them.

    Args:
        engine: The model.
        model_name: Its name, for the report.
        tasks: Pairs of a measure's name and a file of records.
        soft_tokens: Numbers of soft tokens per chunk; by default the model's most.
        limit: Records per task, the first ones of the file.
        max_chunks: Leave out records with more chunks.
        output: JSON file of the scores; the answers go beside it, to `<name>.predictions.jsonl`.

    Returns:
        The scores: per task and system the means, their 95% bootstrap intervals and the number of records.

    Raises:
        E2LLMError: If a measure is unknown, a number of soft tokens out of range, a file without usable
            records, or a record too long for the window.
    """
    rates = list(soft_tokens) or [engine.model.config.max_soft_tokens]
    check_request(engine, tasks, rates, output)
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    systems = [*((f"e2llm k={rate}", rate) for rate in rates), (NO_SOFT_TOKENS, None)]
    for task, file in tasks:
        records = list(islice(usable(engine, task, read_records(file), max_chunks), limit))
        if not records:
            within = "" if max_chunks is None else f" within {max_chunks} chunks"
            raise E2LLMError(f"{file}: no record serves the measure {task!r}{within}")
        read = {text: engine.read(text, progress=False) for text in {record.context for record in records}}
        for system, rate in systems:
            contexts = [read[record.context] if rate else EMPTY_CONTEXT for record in records]
            outcomes = measure_records(engine, task, file, records, contexts, rate)
            rows.append(summarize(task, system, file, outcomes))
            for record, outcome in zip(records, outcomes, strict=True):
                entry = {"task": task, "system": system, "id": record.id, "prompt": record.prompt}
                lines.append(json.dumps({**entry, **asdict(outcome)}, ensure_ascii=False))
    scores = {
        "model": model_name,
        "chunk_size_chars": engine.processor.chunk_size_chars,
        "num_threads": torch.get_num_threads(),
        "scores": rows,
    }
    write_atomically(output.with_suffix(".predictions.jsonl"), ("\n".join(lines) + "\n").encode())
    write_atomically(output, (json.dumps(scores, indent=2) + "\n").encode())
    return scores


def check_request(
    engine: Engine, tasks: Sequence[tuple[str, str]], rates: Sequence[int], output: Path
) -> None:
    """Raise for what would fail only after hours of work."""
    if not tasks:
        raise E2LLMError(f"no measure asked for; choose from {', '.join(MEASURES)}")
    for task, file in tasks:
        if task not in MEASURES:
            raise E2LLMError(f"unknown measure {task!r}; choose from {', '.join(MEASURES)}")
        if not Path(file).is_file():
            raise FileNotFoundError(f"no such records file: {file}; make one with 'e2llm prepare'")
        if task == "answers":
            rouge_l("", [""])
    for rate in rates:
        engine.model.check_num_soft_tokens(rate)
    if output.is_dir():
        raise E2LLMError(f"{output} is a folder; name a file such as {output / 'scores.json'}")


def measure_records(
    engine: Engine,
    task: str,
    file: str,
    records: Sequence[Record],
    contexts: Sequence[Context],
    soft_tokens: int | None,
) -> list[Outcome]:
    """Outcomes of one system on records with their contexts; a bar on a terminal."""
    outcomes = []
    pairs = list(zip(records, contexts, strict=True))
    for record, context in tqdm(pairs, desc=task, disable=not sys.stderr.isatty(), leave=False):
        try:
            outcomes.append(MEASURES[task](engine, record, context, soft_tokens))
        except ContextOverflowError as error:
            name = record.id or repr(record.prompt[:40])
            raise ContextOverflowError(
                f"{file}, record {name}: {error}; or leave long contexts out with max_chunks"
            ) from error
    return outcomes


def usable(engine: Engine, task: str, records: Iterator[Record], max_chunks: int | None) -> Iterator[Record]:
    """The records that a measure can use; for restatement, chunks spread evenly over each context."""
    seen: set[str] = set()
    for record in records:
        restates = task == "restatement"
        if record.context in seen if restates else record.is_text_only:
            continue
        seen.add(record.context)
        if max_chunks is None or len(engine.processor.split(record.context)) <= max_chunks:
            yield from passages(engine, record) if restates else [record]


def passages(engine: Engine, record: Record) -> Iterator[Record]:
    """Up to 8 chunks of a context, evenly spread, each as a text-only record of its own."""
    chunks = [chunk for chunk in engine.processor.split(record.context) if chunk.text.strip()]
    count = min(_PASSAGES_PER_CONTEXT, len(chunks))
    for number in range(count):
        chunk = chunks[(2 * number + 1) * len(chunks) // (2 * count)]
        name = f"{record.id}[{chunk.start}:{chunk.end}]"
        yield Record(chunk.text, "", "", id=name, source=record.source)


def summarize(task: str, system: str, file: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Means and intervals of a system on a task."""
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name in outcomes[0].scores:
        numbers = [outcome.scores[name] for outcome in outcomes]
        values[name] = round(sum(numbers) / len(numbers), 4)
        low, high = bootstrap_interval(numbers)
        intervals[name] = (round(low, 4), round(high, 4))
    return {
        "task": task,
        "system": system,
        "records": Path(file).name,
        "num_records": len(outcomes),
        "values": values,
        "intervals_95": intervals,
    }
