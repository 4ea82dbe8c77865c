"""Give a model another encoder: train a new adapter in two phases, and keep the decoder.

First the new adapter learns to make the soft tokens that the old encoder and adapter make of the same chunks;
the decoder, which takes most of the time of a step, has no part in it. The nearer the new ones come, the
less is left to learn in the second phase (chosen here): both objectives train the adapter against the frozen
decoder. The same held-out samples measure the old pair, and the new pair after each phase.

Soft tokens are matched one by one. Pooled states are matched at the finest rate: the head of the adapter and
the decoder, which come after them, stay as they are. Where the new tokenizer cuts a chunk into another number
of groups, the old states are interpolated along the chunk.

Shapes: C chunks, K soft tokens per chunk, n groups of a chunk, R groups of all chunks, S width of pooled
states, D decoder width.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError
from torch import nn
from torch.nn import functional
from transformers import set_seed

from e2llm.errors import E2LLMError
from e2llm.files import check_folder_place, write_atomically
from e2llm.modeling.checkpoints.parts import PartSource, load_tokenizer
from e2llm.modeling.checkpoints.sources import find_model
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import count_soft_tokens
from e2llm.training.arguments import training_arguments
from e2llm.training.build import set_chunking, set_trainable
from e2llm.training.checkpoints import STATE_NAME, last_checkpoint
from e2llm.training.console import only_one_process, say
from e2llm.training.recipes.schema import Recipe
from e2llm.training.run import evaluation_sets, train
from e2llm.training.samples.data_check import RunData, read_data
from e2llm.training.samples.sample_set import SampleSet
from e2llm.training.trainer import E2LLMTrainer

START_FOLDER = "start"
START_FILE = "start.json"
RESULT_FILE = "realign.json"
_LEAST_CHARS = 32  # of a chunk that is cut short

Losses = dict[str, float]
Pair = tuple[E2LLMForConditionalGeneration, E2LLMProcessor]


class Start(BaseModel, frozen=True):
    """What the first phase came to, and of which models; written when its model is saved.

    Attributes:
        model: The trained model's name.
        encoder: The new encoder's name.
        match_steps: Steps of matching.
        old: See `RealignResult`, as for the next two.
        fresh: Before matching.
        matched: After matching.
    """

    model: str
    encoder: str
    match_steps: int
    old: Losses
    fresh: Losses
    matched: Losses


@dataclass(frozen=True)
class RealignResult:
    """Held-out losses (nats per token) along the way, by objective.

    Attributes:
        folder: The realigned model.
        old: Of the model as it was.
        fresh: With the new encoder and a new adapter, before any training.
        matched: After matching.
        trained: By optimizer step against the decoder; the best one is saved.
        recovered: Share of what the swap cost that is regained, by objective: 1 is the old model's loss. An
            objective whose loss did not rise is left out.
    """

    folder: Path
    old: Losses
    fresh: Losses
    matched: Losses
    trained: dict[int, Losses]
    recovered: Losses


def swap_encoder(model: E2LLMForConditionalGeneration, processor: E2LLMProcessor, encoder: str) -> Pair:
    """Return the same decoder with another encoder and a new adapter of the same kind and sizes.

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
    """Copy the adapter's head, which makes soft tokens of pooled states, and the rates it was trained on."""
    width, wanted = new.adapter.kept_size, old.adapter.kept_size
    if width != wanted:
        raise E2LLMError(
            f"the new encoder's layers give states of width {width}, but the adapter's head needs {wanted}; "
            "choose an encoder that is wider or has more layers"
        )
    new.adapter.head.load_state_dict(old.adapter.head.state_dict())  # type: ignore[union-attr]
    new.config.trained_on = old.config.trained_on


def realign_model(recipe: Recipe, model: str, *, match_steps: int = 300) -> RealignResult:
    """Give a trained model another encoder and a new adapter, and train these.

    Args:
        recipe: Its `encoder` is the new one, its `decoder.mode` must be frozen; data, objectives and steps
            are those of the stretch against the decoder. Writes to `recipe.folder`; an interrupted run of
            the same models continues from its newest checkpoint, or after matching.
        model: The trained model: folder, hub id or embedded name.
        match_steps: Steps of matching, 64 chunks each; 0 for none.

    Raises:
        E2LLMError: If the folder contains a finished or another run, the decoder is not frozen, or a part
            cannot be loaded.
    """
    if recipe.decoder.mode != "frozen":
        raise E2LLMError(f"realign keeps the decoder: decoder.mode must be frozen, got {recipe.decoder.mode}")
    if (recipe.folder / RESULT_FILE).exists():
        raise E2LLMError(f"{recipe.folder} already contains a run; name another output")
    check_folder_place(recipe.folder)
    only_one_process("realign")
    earlier = earlier_start(recipe, model, match_steps)
    start = earlier or match_encoder(recipe, model, match_steps)
    if earlier is None:
        write_atomically(recipe.folder / START_FILE, start.model_dump_json(indent=2).encode())
    folder = str(recipe.folder / START_FOLDER)
    run = recipe.model_copy(update={"init_from": folder, "output": str(recipe.folder), "stage": "train"})
    result = train(run, resume=earlier is not None)
    trained = curve_of_held_out(run.folder)
    recovered = {
        name: (start.fresh[name] - value) / (start.fresh[name] - start.old[name])
        for name, value in result.eval_losses.items()
        if name in start.old and start.fresh[name] > start.old[name]
    }
    outcome = RealignResult(result.folder, start.old, start.fresh, start.matched, trained, recovered)
    content = {**asdict(outcome), "folder": str(result.folder)}
    write_atomically(recipe.folder / RESULT_FILE, (json.dumps(content, indent=2) + "\n").encode())
    return outcome


def earlier_start(recipe: Recipe, model: str, match_steps: int) -> Start | None:
    """Return what an interrupted run matched, or None; raise `E2LLMError` if it is of other models."""
    file = recipe.folder / START_FILE
    if not file.is_file():
        return None
    try:
        start = Start.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise E2LLMError(f"{file} is damaged; delete it, and matching starts again") from error
    wanted = {"model": model, "encoder": recipe.encoder.source, "match_steps": match_steps}
    changed = [f"{key} {getattr(start, key)}" for key in wanted if getattr(start, key) != wanted[key]]
    if changed:
        raise E2LLMError(
            f"{recipe.folder} contains a run with {', '.join(changed)}; give the same to continue it, or "
            "name another output"
        )
    say(f"{recipe.folder}: continues after matching")
    return start


def match_encoder(recipe: Recipe, model: str, match_steps: int) -> Start:
    """Swap the encoder, match the old soft tokens, save the model to start from, and return the losses."""
    find_model(recipe.encoder.source)  # before the old model and the data are read
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
    set_trainable(new[0], recipe)
    fresh = held_out_losses(new, recipe, data)
    say(f"held out, with the new encoder and a new adapter: {_line(fresh)}")
    matched = fresh
    if match_steps:
        texts = list(dict.fromkeys(record.context for source in data.train for record in source.records))
        match(new, old, texts, steps=match_steps, seed=recipe.seed)
        matched = held_out_losses(new, recipe, data)
        say(f"held out, after matching: {_line(matched)}")
    start = recipe.folder / START_FOLDER
    new[0].save_pretrained(start)
    new[1].save_pretrained(start)
    return Start(
        model=model,
        encoder=recipe.encoder.source,
        match_steps=match_steps,
        old=losses_of_old,
        fresh=fresh,
        matched=matched,
    )


def held_out_losses(pair: Pair, recipe: Recipe, data: RunData) -> Losses:
    """Return the held-out loss of each objective, as a run measures it."""
    model, processor = pair
    window = getattr(model.config.text_config, "max_position_embeddings", None)
    sets: dict[str, SampleSet] = evaluation_sets(data.validation, recipe, processor, window)
    if not sets:
        raise E2LLMError("no record is held out; give --validation, or raise data.validation_fraction")
    first = next(iter(sets.values()))
    trainer = E2LLMTrainer(model, processor, recipe, training_arguments(recipe, None), first, sets)
    metrics = trainer.evaluate()
    return {name.removeprefix("eval_"): value for name, value in metrics.items()}


def curve_of_held_out(folder: Path) -> dict[int, Losses]:
    """Return held-out losses by step, from a run's newest checkpoint."""
    newest = last_checkpoint(folder)
    if newest is None:
        return {}
    log = json.loads((Path(newest) / STATE_NAME).read_text(encoding="utf-8"))["log_history"]
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


def matching_loss(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of soft tokens `[C, K, D]` or states `[R, S]` over old's variance.

    A loss of 1 is that of the mean of the old ones, which says nothing of a chunk.
    """
    variance = (old - old.mean(dim=0)).pow(2).mean()
    return (new - old).pow(2).mean() / variance.clamp(min=1e-12)


def draw_chunks(
    texts: Sequence[str], processor: E2LLMProcessor, num_chunks: int, rng: random.Random
) -> list[str]:
    """Return chunks of drawn texts; half of them are cut short, since restating learns from short pieces."""
    chunks: list[str] = []
    size = processor.chunk_size_chars
    while len(chunks) < num_chunks:
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - size))
        length = size if rng.random() < 0.5 else rng.randint(min(_LEAST_CHARS, size), size)
        chunk = text[start : start + length].strip()
        if chunk:
            pieces = processor.split(chunk)
            chunks.append(pieces[0].text)
    return chunks


def match(
    new: Pair,
    old: Pair,
    texts: Sequence[str],
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> list[float]:
    """Train the new encoder and adapter to make the old soft tokens, and return the loss of each step.

    Args:
        new: The model to train and its processor.
        old: The model to match and its processor.
        texts: Texts that chunks are drawn from.
        steps: Optimizer steps; the learning rate falls to 0 along a cosine.
        batch_size: Chunks per step.
        learning_rate: At the beginning.
        seed: Fixes the draws.

    Raises:
        E2LLMError: If a loss is NaN or infinite, or there is no text.
    """
    if not texts:
        raise E2LLMError("the records have no text to match soft tokens on; give others with --records")
    (model, processor), (old_model, old_processor) = new, old
    rng = random.Random(f"{seed}/matching")
    trained = [
        parameter
        for part in (model.chunk_encoder, model.adapter)
        for parameter in part.parameters()
        if parameter.requires_grad
    ]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    model.train()
    for step in range(1, steps + 1):
        chunks = draw_chunks(texts, old_processor, batch_size, rng)
        with torch.no_grad():
            wanted = _kept(old_model, _inputs(old_processor, chunks, old_model))
        made = _kept(model, _inputs(processor, chunks, model))
        aligned = [stretch(old_rows, len(rows)) for old_rows, rows in zip(wanted, made, strict=True)]
        loss = matching_loss(torch.cat(made), torch.cat(aligned).to(made[0].device))
        if not torch.isfinite(loss):
            raise E2LLMError(
                f"the matching loss is {loss.item()} at step {step} of {steps}; use fewer --match-steps"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step == 1 or step % 20 == 0 or step == steps:
            say(f"matching {step}/{steps}  loss {losses[-1]:.4f}")
    model.eval()
    return losses


def stretch(rows: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Return a chunk's states `[n, S]` interpolated to `num_groups`; unchanged if n is that."""
    if len(rows) == num_groups:
        return rows
    return functional.interpolate(rows.T[None], size=num_groups, mode="linear", align_corners=False)[0].T


def _kept(model: E2LLMForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the kept states of each chunk in float32, without padding."""
    kept = model.encode_chunks(inputs["chunk_input_ids"], inputs["chunk_attention_mask"]).float()
    if model.adapter.dial == "soft_tokens":
        return kept.unbind()
    finest = model.config.finest_rate
    lengths = inputs["chunk_attention_mask"].sum(dim=1).tolist()
    return tuple(rows[: count_soft_tokens(n, finest)] for rows, n in zip(kept, lengths, strict=True))


def _inputs(
    processor: E2LLMProcessor, chunks: Sequence[str], model: E2LLMForConditionalGeneration
) -> dict[str, torch.Tensor]:
    device = next(model.adapter.parameters()).device
    return {name: value.to(device) for name, value in processor.encode_chunk_texts(chunks).items()}
