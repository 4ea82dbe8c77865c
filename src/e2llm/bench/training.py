"""Training beside a plain loop: the same model, the same samples, context tokens per second, memory.

`plain` is the loop that one writes first: one record at a time, with a separate row in the decoder; its
chunks are padded to the longest and read in one pass. `e2llm` is the trainer of this library.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from e2llm.bench.decoders import build_engine, make_text
from e2llm.bench.timing import OnProgress, Worker, format_table, peak_bytes
from e2llm.inference.engine import Engine
from e2llm.measuring import reset_peak
from e2llm.modeling.lora import merge_lora
from e2llm.records import Record
from e2llm.training.arguments import resolve_precision, training_arguments
from e2llm.training.build import set_trainable
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.collator import Sample
from e2llm.training.samples.sample_set import OBJECTIVES
from e2llm.training.trainer import E2LLMTrainer

LOOPS = ("plain", "e2llm")
_QUESTIONS = 4  # of each context
_QUOTED_WORDS = 8
_ANSWER_WORDS = 16
_MAX_GRAD_NORM = 1.0  # as in `training_arguments`
_COLUMNS = {
    "context_tokens": "tokens", "way": "way", "context_tokens_per_s": "tokens/s", "ratio": "ratio",
    "step_s": "step s", "peak_bytes": "peak MB", "loss": "loss",
}  # fmt: skip


def measure_training(
    settings: dict[str, Any], on_progress: OnProgress = lambda _: None
) -> list[dict[str, Any]]:
    """Measure both loops, one process after the other.

    Args:
        settings: Those of `Loop`, without `loop`.
        on_progress: Called with a line before each.

    Returns:
        One result per loop; one that failed has `errors` instead of figures.
    """
    rows: list[dict[str, Any]] = []
    for loop in LOOPS:
        on_progress(f"training, {loop}, contexts of {settings['context_tokens']:,} tokens")
        with Worker(Loop, {**settings, "loop": loop}) as worker:
            result = worker.ask("measure")
        if "error" in result:
            result = {"errors": {loop: result["error"]}}
        elif rows and "errors" not in rows[0]:
            result["ratio"] = result["context_tokens_per_s"] / rows[0]["context_tokens_per_s"]
        rows.append({"way": loop, "context_tokens": settings["context_tokens"], **result})
    return rows


class Loop:
    """One way of training.

    Args:
        settings: `loop`, `engine` (arguments of `build_engine`), `context_tokens`, `batch_size` and `steps`
            (the first is not timed).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def measure(self) -> dict[str, Any]:
        """Return tokens of contexts per second (each question's counted), step time, peak and first loss."""
        settings = self.settings
        with tempfile.TemporaryDirectory() as folder:
            recipe = make_recipe(settings, Path(folder))
            engine = build_engine(**settings["engine"])
            torch.manual_seed(0)
            set_trainable(merge_lora(engine.model), recipe)
            samples = make_samples(engine, settings)
            reset_peak()
            train = train_plainly if settings["loop"] == "plain" else train_by_trainer
            seconds, loss = train(engine, recipe, samples)
            peak = peak_bytes(engine.device)
        timed = samples[settings["batch_size"] :]
        num_tokens = sum(engine.count_tokens(chunk) for item in timed for chunk in item.decoder_input.chunks)
        return {
            "context_tokens_per_s": num_tokens / seconds,
            "step_s": seconds / (settings["steps"] - 1),
            "peak_bytes": peak,
            "loss": loss,
        }


def make_recipe(settings: dict[str, Any], folder: Path) -> Recipe:
    """Return the recipe of both loops: one soft token per chunk, LoRA on the decoder."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "output": str(folder / "run"),
            "encoder": {"mode": "frozen"},
            "decoder": {"source": "bench", "mode": "lora"},
            "adapter": {"max_soft_tokens": 1},
            "data": {"train": [{"path": "bench"}]},
            "objectives": {"understanding": {"fraction": 0.0}, "soft_tokens": [1]},
            "train": {
                "steps": settings["steps"],
                "batch_size": settings["batch_size"],
                "precision": "auto" if settings["engine"].get("device") == "cuda" else "fp32",
                "packing": True,
                "save_every_steps": 10**6,
                "evaluate_every_steps": 10**6,
                "log_every_steps": 1,
            },
        }
    )


def make_samples(engine: Engine, settings: dict[str, Any]) -> list[Sample]:
    """Return samples of contexts of equal length with questions on what follows some of their words."""
    count = settings["steps"] * settings["batch_size"]
    num_contexts = -(-count // _QUESTIONS)
    text = make_text(engine, num_contexts * settings["context_tokens"])
    size = len(text) // num_contexts
    records = []
    for number in range(num_contexts):
        context = text[number * size : (number + 1) * size]
        words = context.split()
        for question in range(_QUESTIONS):
            at = (question + 1) * len(words) // (_QUESTIONS + 1)
            quoted = " ".join(words[at : at + _QUOTED_WORDS])
            answer = " ".join(words[at + _QUOTED_WORDS : at + _QUOTED_WORDS + _ANSWER_WORDS])
            prompt = f"Question {question}: what follows '{quoted}'?"
            records.append(Record(context, prompt, answer or "Nothing."))
    samples = []
    for index, record in enumerate(records[:count]):
        chunks = [chunk.text for chunk in engine.processor.split(record.context)]
        made = engine.processor.lay_out(chunks, record.prompt, record.answer, num_soft_tokens=1)
        samples.append(Sample(made, OBJECTIVES.index("reasoning"), index))
    return samples


def train_plainly(engine: Engine, recipe: Recipe, samples: list[Sample]) -> tuple[float, float]:
    """Train by the plain loop; return the seconds after its first step, and that step's loss."""
    model, processor = engine.model, engine.processor
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.train.learning_rate, fused=True)
    precision = resolve_precision(recipe.train.precision)
    halved = torch.autocast(engine.device.type, torch.bfloat16, enabled=precision == "bf16")
    model.train()
    size, started, first_loss = recipe.train.batch_size, 0.0, 0.0
    for step in range(recipe.train.steps):
        batch = [samples[step * size + number].decoder_input for number in range(size)]
        num_labels = sum(sum(label >= 0 for label in item.labels[1:]) for item in batch)
        for item in batch:
            inputs = processor.encode_chunk_texts(item.chunks)
            ids = inputs["chunk_input_ids"].to(engine.device)
            mask = inputs["chunk_attention_mask"].to(engine.device)
            with halved:
                with torch.no_grad():
                    states = model.encode_states(ids, mask)
                kept = model.keep(states, mask, 1)
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


def train_by_trainer(engine: Engine, recipe: Recipe, samples: list[Sample]) -> tuple[float, float]:
    """Train by the trainer; return the seconds after its first step, and that step's loss."""
    arguments = training_arguments(recipe, None)
    trainer = E2LLMTrainer(engine.model, engine.processor, recipe, arguments, samples, {})
    trainer.args.save_strategy = "no"
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    return times.ends[-1] - times.ends[0], float(trainer.state.log_history[0]["loss"])


def now(device: torch.device) -> float:
    """Return the time when the device has finished its work."""
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


def format_training(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table, with ratios to the plain loop of the same contexts."""
    return format_table(rows, _COLUMNS)
