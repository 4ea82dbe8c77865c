"""What a checkpoint of `smol` can do so far: restating prose, and questions about passages, held out.

    python recipes/smol/measure.py MODEL DATA [-o curve.jsonl] [--items 40]

Restating runs free: the model continues its own words, and the character error rate counts what is wrong. A
passage question is answered from soft tokens alone at each rate, and from the passage as raw text; it scores
by SQuAD's F1. Intervals are 95% bootstrap intervals. A line of JSON is added to the file for each checkpoint.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from smol_figures import argument_parser

from e2llm.errors import E2LLMError
from e2llm.evaluation.metrics import character_error_rate, token_f1
from e2llm.evaluation.statistics import bootstrap_interval
from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import Rate
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record, read_records

PROSE = ("prose-novels", "prose-openstax")
QUESTIONS = ("passage-squad", "passage-fairytaleqa")
RATES: tuple[Rate, ...] = (2, 4, 8, 16)
PIECE_CHARS = 200
BATCH = 8

Item = tuple[DecoderInput, list[str]]


def spread(records: Sequence[Record], count: int) -> list[Record]:
    """Some records, evenly over the file."""
    step = max(1, len(records) // count)
    return list(records[::step][:count])


def restating(processor: E2LLMProcessor, data: Path, rate: Rate, count: int) -> Iterator[Item]:
    """Pieces of held-out prose to restate from their soft tokens."""
    for name in PROSE:
        for record in spread(list(read_records(data / "validation" / f"{name}.jsonl")), count // len(PROSE)):
            pieces = processor.split(record.context, chunk_size_chars=PIECE_CHARS)
            piece = pieces[len(pieces) // 2].text
            yield processor.lay_out([piece], UNDERSTANDING_PROMPT, rate=rate), [piece.strip()]


def answering(processor: E2LLMProcessor, data: Path, rate: Rate | None, count: int) -> Iterator[Item]:
    """Questions about held-out passages, given at a rate or (None) as raw text."""
    for name in QUESTIONS:
        records = spread(list(read_records(data / "validation" / f"{name}.jsonl")), count // len(QUESTIONS))
        for record in records:
            chunks = [chunk.text for chunk in processor.split(record.context)]
            raw = range(len(chunks)) if rate is None else ()
            laid = processor.lay_out(chunks, record.prompt, rate=rate or 2, expand=raw)
            yield laid, [record.answer, *record.references]


@torch.inference_mode()
def answers(
    model: E2LLMForConditionalGeneration, processor: E2LLMProcessor, items: Sequence[Item], most: int
) -> list[str]:
    """Greedy answers, in batches."""
    texts: list[str] = []
    for start in range(0, len(items), BATCH):
        batch = processor.collate([item for item, _ in items[start : start + BATCH]])
        made = model.generate(**batch, max_new_tokens=most, do_sample=False)
        texts += [processor.decode_answer(row[batch["input_ids"].shape[1] :]) for row in made]
    return texts


def figure(scores: Sequence[float]) -> dict[str, Any]:
    """Mean and interval."""
    low, high = bootstrap_interval(scores)
    return {"mean": round(sum(scores) / len(scores), 4), "low": round(low, 4), "high": round(high, 4)}


def measure(name: str, data: Path, count: int, examples: int) -> dict[str, Any]:
    """All figures of a checkpoint."""
    model = E2LLMForConditionalGeneration.from_pretrained(name, dtype=torch.float32).eval()
    processor = E2LLMProcessor.from_pretrained(name)
    row: dict[str, Any] = {"model": name, "items": count, "trained_on": model.config.trained_on}
    for rate in RATES:
        items = list(restating(processor, data, rate, count))
        texts = answers(model, processor, items, 96)
        row[f"restate {rate}"] = figure(
            [
                min(1.0, character_error_rate(text, wanted[0]))
                for text, (_, wanted) in zip(texts, items, strict=True)
            ]
        )
        for text, (_, wanted) in list(zip(texts, items, strict=True))[:examples]:
            print(f"rate {rate}\n  wanted {wanted[0]!r}\n  made   {text!r}")
    for rate in (None, *RATES):
        items = list(answering(processor, data, rate, count))
        texts = answers(model, processor, items, 32)
        label = "text" if rate is None else str(rate)
        row[f"answer {label}"] = figure(
            [token_f1(text, wanted) for text, (_, wanted) in zip(texts, items, strict=True)]
        )
        for text, (_, wanted) in list(zip(texts, items, strict=True))[:examples]:
            print(f"{label}: wanted {wanted[0]!r}, made {text!r}")
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one checkpoint."""
    parser = argument_parser(__doc__)
    parser.add_argument("--items", type=int, default=40, help="pieces and questions per figure")
    parser.add_argument("--examples", type=int, default=2, help="outputs to print per figure")
    options = parser.parse_args(argv)
    try:
        row = measure(options.model, options.data, options.items, options.examples)
    except (E2LLMError, OSError) as error:
        print(f"measure: {error}", file=sys.stderr)
        return 1
    if options.output is not None:
        with options.output.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
