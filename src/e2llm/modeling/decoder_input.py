"""One sample for the decoder: ids with placeholders, and the chunks that they represent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.rates import Rate, check_rate


@dataclass(frozen=True)
class DecoderInput:
    """One sample for the decoder.

    Attributes:
        input_ids: Decoder token ids with placeholders for each chunk that is not expanded.
        labels: Ids to predict, -100 elsewhere; as long as `input_ids`.
        chunks: Texts of the chunks that the placeholders stand for, in order.
        num_soft_tokens: Placeholders of each of these chunks.
        context_start: Position of the first chunk, raw or not.
    """

    input_ids: list[int]
    labels: list[int]
    chunks: list[str] = field(default_factory=list)
    num_soft_tokens: list[int] = field(default_factory=list)
    context_start: int = 0


def numbers_per_place(samples: Sequence[DecoderInput]) -> dict[str, torch.Tensor]:
    """Return `chunk_num_soft_tokens` `[P]` if chunks differ in their number of soft tokens, else nothing."""
    numbers = [number for sample in samples for number in sample.num_soft_tokens]
    return {"chunk_num_soft_tokens": torch.tensor(numbers)} if len(set(numbers)) > 1 else {}


def one_per_chunk(
    num_chunks: int,
    soft: Sequence[int],
    num_soft_tokens: int | Sequence[int] | None,
    rate: Rate | Sequence[Rate] | None,
) -> list[Any]:
    """Return the number of soft tokens, or the rate, of each chunk that is not raw text.

    Args:
        num_chunks: How many chunks there are.
        soft: Indices of those that are not raw text; values of the others are not looked at.
        num_soft_tokens: One number, or one for each chunk.
        rate: One rate or one for each chunk, in its place.

    Raises:
        E2LLMError: If both are given, there are not as many as chunks, or one is out of range.
    """
    if num_soft_tokens is not None and rate is not None:
        raise E2LLMError("give num_soft_tokens or rate, not both")
    name, given = ("num_soft_tokens", num_soft_tokens) if rate is None else ("rate", rate)
    is_one = isinstance(given, str) or not isinstance(given, Sequence)
    values: list[Any] = [given] * num_chunks if is_one else list(given)  # type: ignore[arg-type]
    if len(values) != num_chunks:
        raise E2LLMError(
            f"{name} has {len(values)} values, but the context has {num_chunks} chunks; give one value, or "
            "one for each chunk"
        )
    wanted = [values[index] for index in soft]
    if rate is not None:
        return [check_rate(value) for value in wanted]
    for value in wanted:
        if type(value) is not int or value < 1:
            raise E2LLMError(f"num_soft_tokens must be a whole number of 1 or more, got {value!r}")
    return wanted


def one_per_sample(name: str, value: str | Sequence[str] | None, count: int) -> list[str | None]:
    """Return a text for each of `count` samples; raise `E2LLMError` if there are more or fewer."""
    if value is None:
        return [None] * count
    values = [value] if isinstance(value, str) else list(value)
    if len(values) != count:
        raise E2LLMError(f"{count} prompt(s) but {len(values)} {name}(s); give one per prompt")
    return list(values)
