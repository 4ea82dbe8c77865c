"""The linear start of a `pooling` adapter: ridge regression from encoder states to the decoder's embeddings.

A decoder begins to read soft tokens at once where each is already near the embeddings of the words it stands
for (chosen here; docs/results.md has what it is worth). Tokens of the two tokenizers are matched by their
characters: the target of an encoder token is the mean of the decoder's token embeddings that overlap it.

Shapes: n encoder tokens of all texts, E what the adapter reads of each, D decoder width, S width kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from e2llm.errors import E2LLMError
from e2llm.modeling.adapters import PoolingAdapter
from e2llm.modeling.processor import E2LLMProcessor

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # as shares of the mean variance of a state
_BATCH_TEXTS = 16
_LEAST_TEXTS = 10


@dataclass(frozen=True)
class RidgeFit:
    """How well the linear start maps encoder states to token embeddings.

    Attributes:
        r2: Share of the variance of the embeddings that it explains on held-out texts, at most 1.
        nearest_fraction: Share of the held-out tokens whose nearest token embedding is one of those that they
            stand for, 0 to 1.
        num_tokens: Encoder tokens that it was fitted on.
        penalty: The ridge penalty chosen, as a share of the mean variance of a state.
    """

    r2: float
    nearest_fraction: float
    num_tokens: int
    penalty: float

    def __str__(self) -> str:
        return (
            f"ridge start: R2 {self.r2:.2f} and {self.nearest_fraction:.0%} of the nearest tokens right on "
            f"held-out texts, fitted on {self.num_tokens:,} tokens"
        )


@torch.no_grad()
def init_adapter(model: Any, processor: E2LLMProcessor, texts: Sequence[str]) -> RidgeFit:
    """Start a model's `pooling` adapter at the ridge solution; the MLP adds nothing yet.

    Args:
        model: An `E2LLMForConditionalGeneration` with the adapter `pooling`.
        processor: Its own, with fast tokenizers.
        texts: A few hundred, of the kind that will be read; a fifth of them is held out. Longer ones than the
            encoder reads are cut.

    Returns:
        How well it fits.

    Raises:
        E2LLMError: If the adapter is of another kind, a tokenizer gives no offsets, or texts are too few.
    """
    adapter = model.adapter
    if not isinstance(adapter, PoolingAdapter):
        raise E2LLMError(f"only the pooling adapter has a linear start, got {model.config.adapter!r}")
    if len(texts) < _LEAST_TEXTS:
        raise E2LLMError(f"the linear start needs {_LEAST_TEXTS} texts or more, got {len(texts)}")
    if not (processor.tokenizer.is_fast and processor.encoder_tokenizer.is_fast):
        raise E2LLMError("the linear start needs fast tokenizers, which report the span of each token")
    fitted = [text for place, text in enumerate(texts) if place % 5]
    states, targets, tokens = _pairs(model, processor, fitted)
    held_states, held_targets, held_tokens = _pairs(model, processor, texts[::5])
    weight, bias, penalty, r2 = _best_ridge(states, targets, held_states, held_targets)
    nearest = _nearest(model, (held_states @ weight + bias).float(), held_tokens)
    _set_linear(adapter, weight.float(), bias.float())
    return RidgeFit(r2, nearest, len(tokens), penalty)


def _pairs(
    model: Any, processor: E2LLMProcessor, texts: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """States `[n, E]` and target embeddings `[n, D]` in float64, and the decoder tokens of each."""
    embeddings = model.get_input_embeddings()
    device = next(model.chunk_encoder.parameters()).device
    states, targets, tokens = [], [], []
    for start in range(0, len(texts), _BATCH_TEXTS):
        batch = list(texts[start : start + _BATCH_TEXTS])
        encoded = processor.encoder_tokenizer(
            batch, padding=True, padding_side="right", split_special_tokens=True, truncation=True,
            max_length=processor.max_chunk_tokens, return_offsets_mapping=True, return_tensors="pt",
        )  # fmt: skip
        read = model.encode_states(encoded.input_ids.to(device), encoded.attention_mask.to(device))
        decoded = processor.tokenizer(
            batch, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        for row in range(len(batch)):
            places, overlaps = _overlaps(encoded.offset_mapping[row].tolist(), decoded.offset_mapping[row])
            ids = torch.tensor(decoded.input_ids[row], device=embeddings.weight.device)
            if not places:
                continue
            embedded = embeddings(ids).double().cpu()
            shares = torch.zeros(len(places), len(ids), dtype=torch.float64)
            for index, parts in enumerate(overlaps):
                for token, size in parts:
                    shares[index, token] = size
            targets.append(shares @ embedded / shares.sum(dim=1, keepdim=True))
            states.append(read[row, places].double().cpu())
            tokens += [[decoded.input_ids[row][token] for token, _ in parts] for parts in overlaps]
    if not states:
        raise E2LLMError(
            "the texts for the linear start have no tokens that both tokenizers know; give other texts"
        )
    return torch.cat(states), torch.cat(targets), tokens


def _overlaps(
    encoder: Sequence[Sequence[int]], decoder: Sequence[Sequence[int]]
) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Encoder tokens that share characters with decoder tokens: their places, and `(token, characters)`."""
    places, overlaps, first = [], [], 0
    for place, (start, end) in enumerate(encoder):
        if end <= start:
            continue  # a special token or padding
        while first < len(decoder) and decoder[first][1] <= start:
            first += 1
        parts, token = [], first
        while token < len(decoder) and decoder[token][0] < end:
            parts.append((token, min(end, decoder[token][1]) - max(start, decoder[token][0])))
            token += 1
        parts = [(token, size) for token, size in parts if size > 0]
        if parts:
            places.append(place)
            overlaps.append(parts)
    return places, overlaps


def _best_ridge(
    states: torch.Tensor, targets: torch.Tensor, held_states: torch.Tensor, held_targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Weight `[E, D]`, bias `[D]`, penalty and held-out R2 of the penalty that explains most."""
    mean, target_mean = states.mean(dim=0), targets.mean(dim=0)
    centred = states - mean
    covariance = centred.T @ centred
    moments = centred.T @ (targets - target_mean)
    variance = float(covariance.diagonal().mean())
    spread = (held_targets - held_targets.mean(dim=0)).pow(2).sum()
    best: tuple[torch.Tensor, torch.Tensor, float, float] | None = None
    for penalty in _PENALTIES:
        ridge = penalty * max(variance, 1e-12) * torch.eye(len(covariance), dtype=covariance.dtype)
        weight = torch.linalg.solve(covariance + ridge, moments)
        bias = target_mean - mean @ weight
        r2 = float(1 - (held_targets - held_states @ weight - bias).pow(2).sum() / spread)
        if best is None or r2 > best[3]:
            best = weight, bias, penalty, r2
    assert best is not None
    return best


def _nearest(model: Any, made: torch.Tensor, tokens: Sequence[Sequence[int]]) -> float:
    """Share of rows `[n, D]` whose nearest token embedding, by cosine, is among the tokens of the row."""
    table = nn.functional.normalize(model.get_input_embeddings().weight.detach().float().cpu(), dim=1)
    right = 0
    for start in range(0, len(made), 256):
        found = (made[start : start + 256] @ table.T).argmax(dim=1).tolist()
        right += sum(token in parts for token, parts in zip(found, tokens[start : start + 256], strict=True))
    return right / max(1, len(made))


def _set_linear(adapter: PoolingAdapter, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Let an adapter compute `x @ weight + bias`, as nearly as the width that it keeps allows."""
    projection, skip = adapter.projection, adapter.head.skip
    nn.init.zeros_(adapter.head.down.weight)
    nn.init.zeros_(adapter.head.down.bias)
    if isinstance(skip, nn.Linear):
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        width = projection.out_features
        projection.weight.copy_((left[:, :width] * values[:width].sqrt()).T)
        skip.weight.copy_((values[:width].sqrt()[:, None] * right[:width]).T)
        projection.bias.zero_()
        skip.bias.copy_(bias)
    else:
        projection.weight.copy_(weight.T)
        projection.bias.copy_(bias)
