"""A new adapter that says what the old one said: it learns what the old one kept of the same chunks.

The decoder, which takes most of a step's time, has no part in it. A kept decoder reads the soft tokens that
it was trained on: the nearer the new ones come, the less is left to learn against it (chosen here).

Soft tokens are matched one by one. Pooled states are matched at the finest rate: the head of the adapter and
the decoder, which come after them, stay as they are. Where the new tokenizer cuts a chunk into another number
of groups, the old states are interpolated along the chunk.

Shapes: C chunks, K soft tokens per chunk, n groups of a chunk, S width of pooled states, D decoder width.
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from e2llm.errors import E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import count_soft_tokens

_LEAST_CHARS = 32


def matching_loss(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of soft tokens `[C, K, D]` or pooled states `[R, S]`, over the variance of old.

    A loss of 1 is that of the mean of the old ones, which says nothing of a chunk.
    """
    variance = (old - old.mean(dim=0)).pow(2).mean()
    return (new - old).pow(2).mean() / variance.clamp(min=1e-12)


def draw_chunks(texts: Sequence[str], processor: E2LLMProcessor, count: int, rng: random.Random) -> list[str]:
    """Chunks of drawn texts; half of them are cut short, as restating learns from short pieces."""
    chunks: list[str] = []
    size = processor.chunk_size_chars
    while len(chunks) < count:
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - size))
        length = size if rng.random() < 0.5 else rng.randint(min(_LEAST_CHARS, size), size)
        chunk = text[start : start + length].strip()
        if chunk:
            pieces = processor.split(chunk)
            chunks.append(pieces[0].text)
    return chunks


def match(
    new: tuple[E2LLMForConditionalGeneration, E2LLMProcessor],
    old: tuple[E2LLMForConditionalGeneration, E2LLMProcessor],
    texts: Sequence[str],
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train what trains of the new encoder and adapter to make the old soft tokens.

    Args:
        new: The model to train and its processor.
        old: The model to match and its processor.
        texts: What chunks are drawn from.
        steps: Optimizer steps; the learning rate falls to 0 along a cosine.
        batch_size: Chunks per step.
        learning_rate: At the beginning.
        seed: Of the draws.
        on_step: Called with the step, from 1, and its loss.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        E2LLMError: If a loss is NaN or infinite, or there is no text.
    """
    if not texts:
        raise E2LLMError("there is no text to match soft tokens on; give records with --records")
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
        if on_step is not None:
            on_step(step, losses[-1])
    model.eval()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def stretch(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Old states `[n, S]` of a chunk at the places of `count` groups of it; the same ones where n is that."""
    if len(rows) == count:
        return rows
    return functional.interpolate(rows.T[None], size=count, mode="linear", align_corners=False)[0].T


def _kept(model: E2LLMForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What is kept of each chunk, its own rows only, in float32."""
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
