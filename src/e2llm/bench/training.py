"""Training beside a plain loop: the same model, the same samples, context tokens per second, memory.

Ways, each in a process of its own:

- `plain`: one record at a time; its chunks padded to the longest, read in one pass; a row of its own in the
  decoder; a vocabulary row for every position. What one writes first.
- `e2llm`: the trainer of this library.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from e2llm.bench.decoders import build_engine, text_of_length
from e2llm.bench.rates import gemm_rate, reading_operations
from e2llm.bench.training_samples import make_records, padding_shares
from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.inference.peak_memory import release_memory, reset_peak
from e2llm.modeling.lora import merge_lora
from e2llm.process_memory import peak_resident_bytes, resident_bytes
from e2llm.records import read_records
from e2llm.training.arguments import resolve_precision, training_arguments
from e2llm.training.build import set_modes
from e2llm.training.samples import OBJECTIVES, Sample
from e2llm.training.schema import Recipe
from e2llm.training.trainer import E2LLMTrainer

WAYS = ("plain", "e2llm")
_MAX_GRAD_NORM = 1.0  # as in `training_arguments`


def measure_training(
    settings: dict[str, Any], ways: list[str], on_progress: Callable[[str], Any] | None = None
) -> list[dict[str, Any]]:
    """Measure ways of training, one process after the other.

    Args:
        settings: What `run_way` takes, without `way`.
        ways: Some of `WAYS`.
        on_progress: Called with a line before each.

    Returns:
        One result per way: see `run_way`; or `way` and `error`.
    """
    rows = []
    for way in ways:
        if on_progress is not None:
            on_progress(f"training, {way}, contexts of {settings['context_tokens']:,} tokens")
        content = json.dumps({**settings, "way": way, "num_threads": torch.get_num_threads()})
        done = subprocess.run(
            [sys.executable, "-m", "e2llm.bench.training"], input=content, capture_output=True, text=True
        )
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            rows.append({"way": way, "context_tokens": settings["context_tokens"], "error": reason[:300]})
        else:
            rows.append(json.loads(lines[-1]))
    return rows


def run_way(settings: dict[str, Any]) -> dict[str, Any]:
    """Train by one way and measure it.

    Args:
        settings: `way`, `engine` (arguments of `build_engine`), `encoder_mode`, `decoder_mode`,
            `context_tokens`, `questions` per context, `batch_size`, `steps`, `checkpointing`,
            `unchecked_tokens`, and `text` or `data` if the contexts are not to be made up.

    Returns:
        `context_tokens_per_s` (decoder tokens of the samples' contexts, each question's counted),
        `gemm_fraction` (operations without padding and without a second computation, against the rate of
        matrix products), `encoder_padding` and `decoder_padding` (shares of what is computed), `peak_bytes`
        and `loaded_bytes`, `step_s`, `loss` of the first step, and the settings that shape it.
    """
    torch.set_num_threads(settings["num_threads"])
    with tempfile.TemporaryDirectory() as folder:
        recipe = make_recipe(settings, Path(folder))
        engine = build_engine(**settings["engine"], soft_tokens=settings["soft_tokens"])
        torch.manual_seed(0)
        set_modes(merge_lora(engine.model), recipe)
        samples = make_samples(engine, settings)
        rate = gemm_rate(engine.model)
        release_memory()
        reset_peak()
        loaded = resident_bytes()
        run = train_plainly if settings["way"] == "plain" else train_by_trainer
        seconds, loss = run(engine, recipe, samples, settings)
        peak = peak_bytes(engine)
        rate = max(rate, gemm_rate(engine.model))  # something else may have run beside the first one
    timed = [samples[number] for number in range(settings["batch_size"], len(samples))]
    return {
        "way": settings["way"],
        "encoder_mode": settings["encoder_mode"],
        "context_tokens": settings["context_tokens"],
        "questions_per_context": settings["questions"],
        "context_tokens_per_s": context_tokens(engine, timed) / seconds,
        "step_s": seconds / (settings["steps"] - 1),
        "gemm_fraction": training_operations(engine, recipe, timed, settings) / seconds / rate,
        "gemm_rate": rate,
        **padding_shares(engine, samples, settings["way"], recipe),
        "peak_bytes": peak,
        "loaded_bytes": loaded,
        "loss": loss,
    }


def peak_bytes(engine: Engine) -> int:
    """The most memory since the model was loaded, with it."""
    if engine.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(engine.device))
    return peak_resident_bytes()


def make_recipe(settings: dict[str, Any], folder: Path) -> Recipe:
    """The recipe of the trainer's ways; the decoder is built by the benchmark."""
    trains_encoder = settings["encoder_mode"] != "frozen"
    return Recipe.model_validate(
        {
            "name": "bench",
            "output": str(folder / "run"),
            "encoder": {
                "mode": settings["encoder_mode"],
                "unchecked_tokens": settings["unchecked_tokens"] if trains_encoder else 0,
            },
            "decoder": {"source": "bench", "mode": settings["decoder_mode"]},
            "adapter": {"max_soft_tokens": settings["soft_tokens"]},
            "data": {"train": [{"path": "bench"}]},
            "objectives": {
                "understanding": {"fraction": 0.0},
                "soft_tokens": [settings["soft_tokens"]],
            },
            "train": {
                "steps": settings["steps"],
                "batch_size": settings["batch_size"],
                "precision": "auto" if settings["engine"].get("device") == "cuda" else "fp32",
                "packing": True,
                "gradient_checkpointing": settings["checkpointing"],
                "save_every_steps": 10**6,
                "evaluate_every_steps": 10**6,
                "log_every_steps": 1,
            },
        }
    )


def make_samples(engine: Engine, settings: dict[str, Any]) -> list[Sample]:
    """Return samples of contexts of that many tokens, or of a file's records, in their order."""
    count = settings["steps"] * settings["batch_size"]
    if settings.get("data"):
        records = [record for record in read_records(settings["data"]) if not record.is_text_only]
    else:
        num_contexts = -(-count // settings["questions"])
        text = text_of_length(engine, num_contexts * settings["context_tokens"], settings.get("text"))
        records = make_records(text, num_contexts, settings["questions"])
    if not records:
        raise E2LLMError("no record has a question; give others with --data")
    samples = []
    for index in range(count):
        record = records[index % len(records)]
        made = engine.processor.lay_out(
            [chunk.text for chunk in engine.processor.split(record.context)],
            record.prompt,
            record.answer,
            num_soft_tokens=settings["soft_tokens"],
        )
        samples.append(Sample(made, OBJECTIVES.index("reasoning"), index))
    return samples


def context_tokens(engine: Engine, samples: list[Sample]) -> int:
    """Decoder tokens of the samples' contexts."""
    counts: dict[str, int] = {}
    total = 0
    for sample in samples:
        for chunk in sample.decoder_input.chunks:
            if chunk not in counts:
                counts[chunk] = engine.count_tokens(chunk)
            total += counts[chunk]
    return total


def training_operations(
    engine: Engine, recipe: Recipe, samples: list[Sample], settings: dict[str, Any]
) -> float:
    """Operations of the samples as the way computes them, without padding and without recomputation.

    A weight that is frozen costs two passes where gradients flow through it and one where not; one that
    trains costs three. The head is counted at labelled positions alone.
    """
    model, way = engine.model, settings["way"]
    chunks = [text for sample in samples for text in sample.decoder_input.chunks]
    if way != "plain":  # each batch reads a chunk once
        size = settings["batch_size"]
        batches = [samples[at : at + size] for at in range(0, len(samples), size)]
        chunks = [
            text
            for batch in batches
            for text in dict.fromkeys(text for sample in batch for text in sample.decoder_input.chunks)
        ]
    passes = {"frozen": 1, "lora": 2, "full": 3}
    lengths = [len(row) for row in engine.processor.encode_chunk_ids(chunks)]
    encoder = passes[recipe.encoder.mode] * reading_operations(model, lengths)
    decoder = model.language_model
    head = decoder.get_output_embeddings()
    linear = sum(
        item.weight.numel() for item in decoder.modules() if isinstance(item, nn.Linear) and item is not head
    )
    positions = sum(len(sample.decoder_input.input_ids) for sample in samples)
    labels = sum(sum(label >= 0 for label in sample.decoder_input.labels[1:]) for sample in samples)
    factor = 3 if recipe.decoder.mode == "full" else 2
    return float(encoder + factor * 2 * (linear * positions + head.weight.numel() * labels))


def train_plainly(
    engine: Engine, recipe: Recipe, samples: list[Sample], settings: dict[str, Any]
) -> tuple[float, float]:
    """The plain loop; returns the seconds after its first step, and the loss of that."""
    model, processor = engine.model, engine.processor
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.train.learning_rate, fused=True)
    precision = resolve_precision(recipe.train.precision)
    halved = torch.autocast(engine.device.type, torch.bfloat16, enabled=precision == "bf16")
    reads_with_gradients = recipe.encoder.mode != "frozen"
    model.train()
    size, started, first_loss = settings["batch_size"], 0.0, 0.0
    for step in range(settings["steps"]):
        batch = [samples[step * size + number].decoder_input for number in range(size)]
        num_labels = sum(sum(label >= 0 for label in item.labels[1:]) for item in batch)
        for item in batch:
            inputs = processor.encode_chunk_texts(item.chunks)
            ids = inputs["chunk_input_ids"].to(engine.device)
            mask = inputs["chunk_attention_mask"].to(engine.device)
            with halved:
                with torch.set_grad_enabled(reads_with_gradients):
                    states = model.encode_states(ids, mask)
                kept = model.keep(states, mask, settings["soft_tokens"])
                soft_tokens = model.soften(kept, mask.sum(dim=1), torch.tensor(item.num_soft_tokens))
                output = model(
                    input_ids=torch.tensor([item.input_ids], device=engine.device),
                    labels=torch.tensor([item.labels], device=engine.device),
                    chunk_embeds=soft_tokens,
                    num_items_in_batch=num_labels,
                )
            output.loss.backward()
            first_loss += output.loss.item() if step == 0 else 0.0
        nn.utils.clip_grad_norm_(trained, _MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            started = now(engine.device)
    return now(engine.device) - started, first_loss


def now(device: torch.device) -> float:
    """The time, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.ends.append(now(args.device))


def train_by_trainer(
    engine: Engine, recipe: Recipe, samples: list[Sample], settings: dict[str, Any]
) -> tuple[float, float]:
    """The trainer; returns the seconds after its first step, and the loss of that."""
    engine.model.unchecked_encoder_tokens = recipe.encoder.unchecked_tokens
    trainer = E2LLMTrainer(
        engine.model, engine.processor, recipe, training_arguments(recipe, None), samples, {}
    )
    trainer.args.save_strategy = "no"
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    return times.ends[-1] - times.ends[0], float(trainer.state.log_history[0]["loss"])


def format_training(rows: list[dict[str, Any]]) -> str:
    """The results as a table, with ratios to the plain loop of the same contexts."""
    plain = {row["context_tokens"]: row for row in rows if row["way"] == "plain" and "error" not in row}
    lines = [
        f"{'context':>9} {'way':<7} {'tokens/s':>9} {'ratio':>6} {'of GEMM':>8} {'padding enc/dec':>16} "
        f"{'peak MB':>8} {'loss':>7}"
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['context_tokens']:>9,} {row['way']:<7} failed: {row['error']}")
            continue
        base = plain.get(row["context_tokens"])
        ratio = f"{row['context_tokens_per_s'] / base['context_tokens_per_s']:.2f}" if base else "-"
        padding = f"{row['encoder_padding']:.1%} / {row['decoder_padding']:.1%}"
        lines.append(
            f"{row['context_tokens']:>9,} {row['way']:<7} {row['context_tokens_per_s']:>9,.0f} {ratio:>6} "
            f"{row['gemm_fraction']:>8.2f} {padding:>16} {row['peak_bytes'] / 1e6:>8,.0f} {row['loss']:>7.4f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what standard input asks for; the last line of standard output is the result."""
    settings = json.loads(sys.stdin.read())
    print(json.dumps(run_way(settings)), flush=True)


if __name__ == "__main__":
    main()
