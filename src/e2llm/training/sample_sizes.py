"""Lengths of a recipe's samples on paper: the longest, which memory must hold; the mean, which takes time.

Lengths in tokens are guessed from characters; nothing is tokenized.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from e2llm.training.objectives import ReasoningObjective
from e2llm.training.schema import Recipe


@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted, because only the data and the tokenizers could tell.

    Attributes:
        chars_per_token: Characters per token, of both tokenizers; 4 is usual for English prose.
        context_chars: Mean length of the contexts that reasoning samples are about.
        question_tokens: Instruction and template of a sample.
        answer_tokens: Answer of a reasoning sample.
        peak_share: Share of a device's peak that a run reaches, from above 0 to 1.
        overhead_gib: What CUDA and its libraries take on each device.
    """

    chars_per_token: float = 4.0
    context_chars: float = 80_000.0
    question_tokens: int = 96
    answer_tokens: int = 128
    peak_share: float = 0.4
    overhead_gib: float = 1.0


@dataclass(frozen=True)
class SampleSize:
    """One sample.

    Attributes:
        positions: Decoder positions, soft tokens included.
        labelled: Those of them that are predicted.
        chunks: Chunks that the encoder reads.
        chunk_tokens: Encoder tokens of each.
        soft_tokens: Soft tokens of each.
    """

    positions: float
    labelled: float
    chunks: float = 0.0
    chunk_tokens: float = 0.0
    soft_tokens: float = 0.0


def longest_samples(recipe: Recipe, window: int | None, guess: Assumptions) -> dict[str, SampleSize]:
    """The longest sample of each objective that trains.

    Where `objectives.reasoning.max_chunks` is not set, a context is taken that fills the window.
    """
    settings = recipe.objectives
    restating, reasoning = settings.understanding, settings.reasoning
    most = max(settings.soft_tokens)
    size = recipe.chunking.chunk_size_chars
    sizes: dict[str, SampleSize] = {}
    fractions = settings.fractions()
    if fractions["language"]:
        sizes["language"] = _language(recipe)
    if fractions["understanding"]:
        longest_chunk = max(restating.chunk_sizes_chars or [size])
        sizes["understanding"] = _restated(max(restating.window_chunks), longest_chunk, most, guess)
    if fractions["reasoning"] and reasoning.context == "text":
        budget = max(reasoning.text_budgets, default=window)
        tokens = budget or guess.context_chars / guess.chars_per_token
        sizes["reasoning"] = _asked_of_text(tokens, budget, guess)
    elif fractions["reasoning"]:
        expanded = recipe.most_expanded
        raw_tokens = expanded * size / guess.chars_per_token
        fixed = raw_tokens + guess.question_tokens + guess.answer_tokens
        chunks = reasoning.max_chunks
        around = 2 * reasoning.most_distractors_per_side(most)
        if chunks is None:
            free = (window - fixed) / most if window else guess.context_chars / size
            chunks, around = max(1, int(free)), 0
        sizes["reasoning"] = _asked(chunks + around, expanded, size, most, guess, window)
    return sizes


def mean_samples(recipe: Recipe, window: int | None, guess: Assumptions) -> dict[str, SampleSize]:
    """The mean sample of each objective that trains, at the mean rate of the dial."""
    settings = recipe.objectives
    restating, reasoning = settings.understanding, settings.reasoning
    rate = _mean(settings.soft_tokens, settings.soft_token_weights)
    size = recipe.chunking.chunk_size_chars
    sizes: dict[str, SampleSize] = {}
    fractions = settings.fractions()
    if fractions["language"]:
        sizes["language"] = _language(recipe)
    if fractions["understanding"]:
        chunk = _mean(restating.chunk_sizes_chars or [size])
        sizes["understanding"] = _restated(_mean(restating.window_chunks), chunk, rate, guess)
    if fractions["reasoning"] and reasoning.context == "text":
        sizes["reasoning"] = _mean_of_text(reasoning, window, guess)
    elif fractions["reasoning"]:
        chunks = max(1.0, guess.context_chars / size)
        if reasoning.max_chunks is not None:
            chunks = min(chunks, reasoning.max_chunks)
        chunks += reasoning.distractor_fraction * reasoning.most_distractors_per_side(round(rate))
        expanded = _expanding(recipe) * (1 + reasoning.expand_max_chunks) / 2
        sizes["reasoning"] = _asked(chunks, expanded, size, rate, guess, window)
    return sizes


def _expanding(recipe: Recipe) -> float:
    """Share of the reasoning samples in which some chunks stand as raw text, by the weights of files."""
    asked = [file for file in recipe.data.train if "reasoning" in file.objectives]
    weight = sum(file.weight for file in asked)
    return sum(file.weight * recipe.expand_fraction(file) for file in asked) / weight if weight else 0.0


def _language(recipe: Recipe) -> SampleSize:
    length = recipe.objectives.language.sequence_tokens
    return SampleSize(length, length - 1)


def _restated(chunks: float, chars: float, rate: float, guess: Assumptions) -> SampleSize:
    tokens = chars / guess.chars_per_token
    answer = chunks * tokens
    return SampleSize(
        chunks * rate + guess.question_tokens + answer, answer, chunks, _encoder_tokens(tokens), rate
    )


def _asked(
    chunks: float, expanded: float, chars: float, rate: float, guess: Assumptions, window: int | None
) -> SampleSize:
    tokens = chars / guess.chars_per_token
    soft = max(0.0, chunks - expanded)
    positions = soft * rate + expanded * tokens + guess.question_tokens + guess.answer_tokens
    if window is not None:
        positions = min(positions, window)
    return SampleSize(positions, guess.answer_tokens, soft, _encoder_tokens(tokens), rate)


def _asked_of_text(context_tokens: float, budget: int | None, guess: Assumptions) -> SampleSize:
    """A question with raw text in the place of soft tokens, cut to a budget: nothing for the encoder."""
    positions = context_tokens + guess.question_tokens + guess.answer_tokens
    return SampleSize(positions if budget is None else min(positions, budget), guess.answer_tokens)


def _mean_of_text(settings: ReasoningObjective, window: int | None, guess: Assumptions) -> SampleSize:
    """The mean over budgets and views."""
    tokens = guess.context_chars / guess.chars_per_token
    weights = settings.text_views.weights()
    closed = weights["closed_book"] / sum(weights.values())
    budgets: Sequence[int | None] = settings.text_budgets or [window]
    lengths = [
        (1 - closed) * _asked_of_text(tokens, budget, guess).positions
        + closed * _asked_of_text(0.0, budget, guess).positions
        for budget in budgets
    ]
    return SampleSize(sum(lengths) / len(lengths), guess.answer_tokens)


def _encoder_tokens(tokens: float) -> float:
    return tokens + 2  # [CLS] and [SEP]


def _mean(values: list[int], weights: list[float] | None = None) -> float:
    shares = weights or [1.0] * len(values)
    return sum(value * share for value, share in zip(values, shares, strict=True)) / sum(shares)
