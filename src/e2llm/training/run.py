"""Run a recipe: build or load the model, train, evaluate, save."""

import importlib.metadata
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.curves import write_atomically
from e2llm.training.recipe import LoraSection, NewDecoder, Recipe
from e2llm.training.samples import SampleSet, Source, hold_out, load_sources
from e2llm.training.tokenizer import train_tokenizer
from e2llm.training.trainer import CurveCallback, E2LLMTrainer, last_checkpoint, resolve_precision
from e2llm.version import __version__

FINAL_FOLDER = "final"


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        folder: The trained model.
        steps: Optimizer steps done in all.
        first_losses: Mean training loss per objective in the first log line.
        last_losses: The same in the last one.
        eval_losses: Held-out losses of the saved weights' last evaluation.
    """

    folder: Path
    steps: int
    first_losses: dict[str, float]
    last_losses: dict[str, float]
    eval_losses: dict[str, float]


def train(recipe: Recipe, *, resume: bool = False) -> TrainResult:
    """Train by a recipe, into `recipe.folder`; the model comes to lie in its sub-folder `final`.

    Args:
        recipe: The resolved recipe.
        resume: Go on from the newest checkpoint of the same run, if there is one; a finished run is left as it is.

    Raises:
        E2LLMError: If the folder holds another run and `resume` is not set, or the data do not serve the objectives.
    """
    finished = finished_result(recipe)
    if finished is not None and resume:
        return finished
    checkpoint = last_checkpoint(recipe)
    if not resume and (checkpoint or finished):
        raise E2LLMError(
            f"{recipe.folder} holds a run already; use --resume to go on with it, or another output folder"
        )
    if recipe.train.num_threads:
        torch.set_num_threads(recipe.train.num_threads)
    set_seed(recipe.seed)
    sources = load_sources(recipe.data.train)
    if recipe.data.validation:
        validation = load_sources(recipe.data.validation)
    else:
        sources, validation = hold_out(sources, recipe.data.validation_fraction)
    model, processor = build(recipe, sources)
    report = set_modes(model, recipe)
    print(report, flush=True)
    group = recipe.train.batch_size * recipe.train.gradient_accumulation
    window = getattr(model.config.text_config, "max_position_embeddings", None)
    train_set = SampleSet(
        sources, recipe, processor, recipe.train.steps * group, group_size=group, window=window
    )
    eval_sets = evaluation_sets(validation, recipe, processor, window)
    write_provenance(recipe)
    trainer = E2LLMTrainer(model, processor, recipe, train_set, eval_sets)
    trainer.add_callback(CurveCallback(recipe.folder, " ".join(filter(None, (recipe.name, recipe.stage)))))
    trainer.train(resume_from_checkpoint=checkpoint)
    final = recipe.folder / FINAL_FOLDER
    model.save_pretrained(final, max_shard_size="15MB" if recipe.decoder.new else "5GB")
    processor.save_pretrained(final)
    result = summarize_log(final, trainer.state.log_history, trainer.state.global_step)
    write_atomically(recipe.folder / "result.json", result_json(result))
    return result


def build(recipe: Recipe, sources: Sequence[Source]) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """The model and the processor that a run starts with."""
    if recipe.init_from is not None:
        model = E2LLMForConditionalGeneration.from_pretrained(recipe.init_from, dtype=torch.float32)
        processor = E2LLMProcessor.from_pretrained(recipe.init_from)
        if recipe.adapter.reset:
            model.reset_adapter()
        processor.chunk_size_chars = recipe.chunking.chunk_size_chars
        processor.overlap_chars = recipe.chunking.overlap_chars
        processor.chunk_kind = recipe.chunking.kind
        return model, processor
    encoder = recipe.encoder.source
    encoder_kwargs = {"revision": recipe.encoder.revision} if recipe.encoder.revision else {}
    decoder_tokenizer = None
    decoder: Any
    decoder_kwargs: dict[str, Any] = {}
    if recipe.decoder.new is not None:
        decoder, decoder_tokenizer = new_decoder(recipe.decoder.new, sources)
    else:
        decoder = recipe.decoder.source
        decoder_kwargs["dtype"] = recipe.decoder.dtype
        if recipe.decoder.revision:
            decoder_kwargs["revision"] = recipe.decoder.revision
    model = E2LLMForConditionalGeneration.from_parts(
        encoder,
        decoder,
        adapter=recipe.adapter.kind,
        max_soft_tokens=recipe.adapter.max_soft_tokens,
        adapter_num_heads=recipe.adapter.num_heads,
        pooling=recipe.adapter.pooling,
        decoder_tokenizer=decoder_tokenizer,
        encoder_kwargs=encoder_kwargs,
        decoder_kwargs=decoder_kwargs,
    )
    processor = E2LLMProcessor.from_parts(
        encoder,
        None if decoder_tokenizer is not None else decoder,
        decoder_tokenizer=decoder_tokenizer,
        chunk_size_chars=recipe.chunking.chunk_size_chars,
        overlap_chars=recipe.chunking.overlap_chars,
        chunk_kind=recipe.chunking.kind,
        num_soft_tokens=recipe.adapter.max_soft_tokens,
    )
    return model, processor


def new_decoder(shape: NewDecoder, sources: Sequence[Source]) -> tuple[LlamaForCausalLM, Any]:
    """A Llama-shaped decoder with random weights and a tokenizer learned from the sources."""
    texts: list[str] = []
    room = shape.tokenizer_sample_chars
    for source in sources:
        share = shape.tokenizer_sample_chars // len(sources)
        for text in dict.fromkeys(record.context for record in source.records):
            if share <= 0 or room <= 0:
                break
            texts.append(text[:share])
            share -= len(texts[-1])
            room -= len(texts[-1])
    tokenizer = train_tokenizer(texts, shape.vocab_size, shape.window)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        max_position_embeddings=shape.window,
        attention_dropout=shape.dropout,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def set_modes(model: E2LLMForConditionalGeneration, recipe: Recipe) -> lora.TrainableReport:
    """Freeze, adapt or train each part as the recipe says."""

    def settings(section: LoraSection) -> lora.LoraSettings:
        return lora.LoraSettings(section.rank, section.alpha, section.dropout, tuple(section.target_modules))

    report = lora.set_modes(
        model,
        encoder=recipe.encoder.mode,
        decoder=recipe.decoder.mode,
        adapter=recipe.adapter.mode,
        encoder_lora=settings(recipe.encoder.lora),
        decoder_lora=settings(recipe.decoder.lora),
    )
    if recipe.train.gradient_checkpointing:
        model.language_model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return report


def evaluation_sets(
    validation: list[Source], recipe: Recipe, processor: E2LLMProcessor, window: int | None
) -> dict[str, SampleSet]:
    """One fixed set of held-out samples per objective that trains and has records."""
    sets = {}
    for name, fraction in recipe.objectives.fractions().items():
        if fraction <= 0:
            continue
        try:
            sets[name] = SampleSet(
                validation,
                recipe,
                processor,
                recipe.train.evaluate_samples,
                group_size=recipe.train.batch_size,
                window=window,
                only=name,
                salt="validation",
            )
        except E2LLMError:
            print(f"no held-out record serves the {name} objective; it is not evaluated", flush=True)
    return sets


def write_provenance(recipe: Recipe) -> None:
    """Save the resolved recipe and what it ran with, beside the outputs."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(recipe.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True)
    write_atomically(recipe.folder / "recipe.yaml", resolved.encode())
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    facts = {
        "e2llm": __version__,
        **versions,
        "commit": git_commit(),
        "seed": recipe.seed,
        "precision": resolve_precision(recipe.train.precision),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
    }
    write_atomically(recipe.folder / "provenance.json", (json.dumps(facts, indent=2) + "\n").encode())


def git_commit() -> str | None:
    """The commit of the source tree, or None where e2llm does not run from one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def summarize_log(folder: Path, log_history: list[dict[str, Any]], steps: int) -> TrainResult:
    """Pick the first and last losses out of a log."""

    def losses(entries: list[dict[str, Any]], prefix: str = "") -> dict[str, float]:
        return {
            key.removeprefix("eval_"): value
            for entry in entries
            for key, value in entry.items()
            if key.startswith(prefix) and key.endswith("_loss") and (prefix or not key.startswith(("eval", "train")))
        }

    logged = [entry for entry in log_history if "loss" in entry]
    evaluated = [entry for entry in log_history if any(key.startswith("eval_") for key in entry)]
    return TrainResult(folder, steps, losses(logged[:1]), losses(logged[-1:]), losses(evaluated[-1:], "eval_"))


def result_json(result: TrainResult) -> bytes:
    """A result as JSON."""
    data = {**result.__dict__, "folder": result.folder.name}
    return (json.dumps(data, indent=2) + "\n").encode()


def finished_result(recipe: Recipe) -> TrainResult | None:
    """The result of a run that has ended, or None."""
    file = recipe.folder / "result.json"
    if not file.is_file():
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    return TrainResult(recipe.folder / data.pop("folder"), **data)
