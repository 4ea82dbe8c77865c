"""Measures of one model: recall of needles, restatement and answers, beside the same decoder without soft tokens."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.evaluation.metrics import bootstrap_interval, rouge_l, string_match, token_f1
from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record, read_records

_LIST_SEPARATOR = re.compile(r",\s*|\s+and\s+")


@dataclass(frozen=True)
class Outcome:
    """One record under one system: what it said and its scores, each from 0 to 1 unless named otherwise."""

    prediction: str
    reference: str
    scores: dict[str, float]


def measure_recall(engine: Engine, record: Record, context: Context, soft_tokens: int | None) -> Outcome:
    """Whether the values that a needle record asks for stand in the answer."""
    prediction = engine.ask(context, record.prompt, soft_tokens=soft_tokens, max_new_tokens=48).text
    values = [value.strip(" .") for value in _LIST_SEPARATOR.split(record.answer) if value.strip(" .")]
    return Outcome(prediction, record.answer, {"recall": string_match(prediction, values)})


def measure_answer(engine: Engine, record: Record, context: Context, soft_tokens: int | None) -> Outcome:
    """ROUGE-L and word F1 of an answer against the best of its references."""
    prediction = engine.ask(context, record.prompt, soft_tokens=soft_tokens, max_new_tokens=48).text
    references = [record.answer, *record.references]
    scores = {"rouge_l": rouge_l(prediction, references), "f1": token_f1(prediction, references)}
    return Outcome(prediction, record.answer, scores)


@torch.no_grad()
def measure_restatement(engine: Engine, record: Record, context: Context, soft_tokens: int | None) -> Outcome:
    """Next-token accuracy and loss (nats) on the context's text, given its soft tokens and the true text so far."""
    processor, device = engine.processor, engine.device
    text = record.context.strip()
    sample = processor.lay_out(
        [chunk.text for chunk in context.chunks], UNDERSTANDING_PROMPT, text, num_soft_tokens=soft_tokens
    )
    inputs = {
        "input_ids": torch.tensor([sample.input_ids], device=device),
        "labels": torch.tensor([sample.labels], device=device),
    }
    if len(context):
        inputs["chunk_embeds"] = context.soft_tokens.to(device)
    outputs = engine.model(**inputs, only_label_logits=True, use_cache=False)
    targets = inputs["labels"][:, 1:][inputs["labels"][:, 1:] != -100]
    predicted = outputs.logits.argmax(dim=-1)
    scores = {
        "token_accuracy": (predicted == targets).float().mean().item(),
        "loss_nats": outputs.token_losses.mean().item(),
    }
    return Outcome(processor.decode_answer(predicted), text, scores)


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
    """
    rates = list(soft_tokens) or [engine.model.config.max_soft_tokens]
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for task, file in tasks:
        records = list(islice(usable(engine, task, read_records(file), max_chunks), limit))
        if not records:
            raise E2LLMError(f"{file}: no record serves the measure {task!r} within {max_chunks} chunks")
        empty = Context([], [], torch.empty(0), 0, 0.0)
        contexts = {record.context: None for record in records}
        read = {text: engine.read(text, progress=False) for text in contexts}
        for system, rate in [*((f"e2llm k={rate}", rate) for rate in rates), ("no soft tokens", None)]:
            outcomes = [
                MEASURES[task](engine, record, read[record.context] if rate else empty, rate)
                for record in records
            ]
            rows.append(summarize(task, system, file, outcomes))
            for record, outcome in zip(records, outcomes, strict=True):
                entry = {"task": task, "system": system, "id": record.id, "prompt": record.prompt}
                lines.append(json.dumps({**entry, **outcome.__dict__}, ensure_ascii=False))
    scores = {"model": model_name, "num_threads": torch.get_num_threads(), "scores": rows}
    write_text(output, json.dumps(scores, indent=2) + "\n")
    write_text(output.with_suffix(".predictions.jsonl"), "\n".join(lines) + "\n")
    return scores


def usable(
    engine: Engine, task: str, records: Iterator[Record], max_chunks: int | None
) -> Iterator[Record]:
    """The records that a measure can use."""
    seen: set[str] = set()
    for record in records:
        if task == "restatement":
            if record.context in seen:
                continue
            seen.add(record.context)
        elif record.is_text_only:
            continue
        if max_chunks is None or len(engine.processor.split(record.context)) <= max_chunks:
            yield record


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


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)
