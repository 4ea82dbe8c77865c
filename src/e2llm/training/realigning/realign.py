"""Another encoder under a decoder that stays as it is: a new adapter, learned in two stretches.

First the new adapter learns to make the soft tokens that the old encoder and adapter make of the same chunks
(`e2llm.training.realigning.matching`). Then both objectives train it against the frozen decoder. The same
held-out samples measure the old pair, and the new one after each stretch.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import set_seed

from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.modeling.checkpoints.parts import PartSource, load_tokenizer
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.arguments import training_arguments
from e2llm.training.build import set_chunking, set_modes
from e2llm.training.checkpoints import STATE_NAME, is_saved, numbered_checkpoints
from e2llm.training.console import only_one_process, say
from e2llm.training.realigning.matching import match
from e2llm.training.recipes.schema import Recipe
from e2llm.training.run import evaluation_sets, train
from e2llm.training.samples.data_check import RunData, read_data
from e2llm.training.samples.sample_set import SampleSet
from e2llm.training.trainer import E2LLMTrainer

START_FOLDER = "start"
RESULT_FILE = "realign.json"

Losses = dict[str, float]
Pair = tuple[E2LLMForConditionalGeneration, E2LLMProcessor]


@dataclass(frozen=True)
class RealignResult:
    """Held-out losses (nats per token) along the way, by objective.

    Attributes:
        folder: The realigned model.
        old: Of the model as it was.
        fresh: With the new encoder and a new adapter, before any training.
        matched: After matching.
        trained: By optimizer step against the decoder; the best one is saved.
        recovered: Share of what the swap cost that is regained, by objective: 1 is the old model's loss.
    """

    folder: Path
    old: Losses
    fresh: Losses
    matched: Losses
    trained: dict[int, Losses]
    recovered: Losses


def swap_encoder(model: E2LLMForConditionalGeneration, processor: E2LLMProcessor, encoder: str) -> Pair:
    """The same decoder behind another encoder and a new adapter of the same kind and sizes.

    The head of a `pooling` adapter, which makes soft tokens of pooled states, is taken over with the decoder.

    Args:
        model: Gives its decoder up: use it no more for anything but encoding.
        processor: Its processor.
        encoder: Hub id or local folder.

    Raises:
        E2LLMError: If the encoder cannot be loaded, or its states are narrower than what the head takes.
    """
    config = model.config
    swapped = E2LLMForConditionalGeneration.from_parts(
        encoder,
        model.language_model,
        adapter=config.adapter,
        finest_rate=config.finest_rate,
        max_soft_tokens=config.max_soft_tokens,
        adapter_num_heads=config.adapter_num_heads,
        pooling=config.pooling,
        decoder_tokenizer=processor.tokenizer,
        chunk_token_id=config.chunk_token_id,
        encoder_kwargs={"dtype": "float32"},
    )
    swapped.part_sources["decoder"] = model.part_sources.get("decoder", PartSource())
    swapped.generation_config = model.generation_config
    if config.adapter == "pooling":
        _keep_head(model, swapped)
    with torch.no_grad():  # the decoder knows soft tokens of this size
        if hasattr(model.adapter, "scale"):
            swapped.adapter.scale.copy_(model.adapter.scale)  # type: ignore[operator, arg-type]
    other = E2LLMProcessor.from_parts(
        encoder,
        encoder_tokenizer=load_tokenizer(encoder),
        decoder_tokenizer=processor.tokenizer,
        chunk_size_chars=processor.chunk_size_chars,
        overlap_chars=processor.overlap_chars,
        chunk_kind=processor.chunk_kind,
        num_soft_tokens=processor.num_soft_tokens,
        rate=processor.rate,
    )
    return swapped, other


def _keep_head(old: E2LLMForConditionalGeneration, new: E2LLMForConditionalGeneration) -> None:
    """Take over what makes soft tokens of pooled states, and the rates that it was trained on."""
    width, wanted = new.adapter.kept_size, old.adapter.kept_size
    if width != wanted:
        raise E2LLMError(
            f"the new encoder's layers give pooled states {width} wide, the adapter's head takes {wanted}; "
            "choose an encoder that is wider or has more layers"
        )
    new.adapter.head.load_state_dict(old.adapter.head.state_dict())  # type: ignore[union-attr]
    new.config.default_rate, new.config.trained_on = old.config.default_rate, old.config.trained_on


def realign(recipe: Recipe, model: str, *, match_steps: int = 300) -> RealignResult:
    """Put another encoder under a trained model's decoder.

    Args:
        recipe: Its `encoder` is the new one, its `decoder.mode` must be frozen; data, objectives and steps
            are those of the stretch against the decoder. Writes to `recipe.folder`.
        model: The trained model: folder, hub id or embedded name.
        match_steps: Steps of matching, 64 chunks each; 0 for none.

    Raises:
        E2LLMError: If the folder holds a run already, the decoder is not frozen, or a part cannot be loaded.
    """
    if recipe.decoder.mode != "frozen":
        raise E2LLMError(f"realign keeps the decoder: decoder.mode must be frozen, got {recipe.decoder.mode}")
    if (recipe.folder / START_FOLDER).exists() or (recipe.folder / RESULT_FILE).exists():
        raise E2LLMError(f"{recipe.folder} holds a run already; name another output")
    only_one_process("realign")
    set_seed(recipe.seed)
    old = (E2LLMForConditionalGeneration.from_pretrained(model), E2LLMProcessor.from_pretrained(model))
    old[0].requires_grad_(False)
    set_chunking(old[1], recipe)
    data = read_data(recipe)
    data.check_window(old[1], getattr(old[0].config.text_config, "max_position_embeddings", None))
    data.finish()
    losses_of_old = held_out_losses(old, recipe, data)
    say(f"held out, as it was: {_line(losses_of_old)}")
    new = swap_encoder(*old, recipe.encoder.source)
    set_modes(new[0], recipe)
    fresh = held_out_losses(new, recipe, data)
    say(f"held out, with the new encoder and a new adapter: {_line(fresh)}")
    matched = fresh
    if match_steps:
        texts = list(dict.fromkeys(record.context for source in data.train for record in source.records))
        match(new, old, texts, steps=match_steps, seed=recipe.seed, on_step=_say_now_and_then(match_steps))
        matched = held_out_losses(new, recipe, data)
        say(f"held out, after matching: {_line(matched)}")
    start = recipe.folder / START_FOLDER
    new[0].save_pretrained(start)
    new[1].save_pretrained(start)
    del old, new
    run = recipe.model_copy(update={"init_from": str(start), "output": str(recipe.folder), "stage": "train"})
    result = train(run)
    trained = curve_of_held_out(run.folder)
    recovered = {
        name: (fresh[name] - value) / (fresh[name] - losses_of_old[name])
        for name, value in result.eval_losses.items()
        if name in losses_of_old and fresh[name] != losses_of_old[name]
    }
    outcome = RealignResult(result.folder, losses_of_old, fresh, matched, trained, recovered)
    content = {**asdict(outcome), "folder": str(result.folder)}
    write_atomically(recipe.folder / RESULT_FILE, (json.dumps(content, indent=2) + "\n").encode())
    return outcome


def _say_now_and_then(steps: int) -> Callable[[int, float], None]:
    def report(step: int, loss: float) -> None:
        if step == 1 or step % 20 == 0 or step == steps:
            say(f"matching {step}/{steps}  loss {loss:.4f}")

    return report


def held_out_losses(pair: Pair, recipe: Recipe, data: RunData) -> Losses:
    """Held-out loss of each objective, as a run would measure it."""
    model, processor = pair
    window = getattr(model.config.text_config, "max_position_embeddings", None)
    sets: dict[str, SampleSet] = evaluation_sets(data.validation, recipe, processor, window)
    if not sets:
        raise E2LLMError("no record is held out: give --validation, or raise data.validation_fraction")
    first = next(iter(sets.values()))
    trainer = E2LLMTrainer(model, processor, recipe, training_arguments(recipe, None), first, sets)
    metrics = trainer.evaluate()
    return {name.removeprefix("eval_"): value for name, value in metrics.items()}


def curve_of_held_out(folder: Path) -> dict[int, Losses]:
    """Held-out losses by step, from a run's newest checkpoint."""
    saved = [item for item in numbered_checkpoints(folder) if is_saved(item)]
    if not saved:
        return {}
    log = json.loads((saved[-1] / STATE_NAME).read_text(encoding="utf-8"))["log_history"]
    return {
        entry["step"]: {
            name.removeprefix("eval_"): value
            for name, value in entry.items()
            if name.startswith("eval_") and name.endswith("_loss")
        }
        for entry in log
        if any(name.startswith("eval_") for name in entry)
    }


def _line(losses: Losses) -> str:
    return ", ".join(f"{name.removesuffix('_loss')} {value:.3f}" for name, value in losses.items())
