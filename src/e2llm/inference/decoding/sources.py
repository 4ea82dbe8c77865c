"""The chunks that an answer rests on: as the plan ranks them, or by what the answer loses without them."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers.cache_utils import DynamicCache

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.errors import E2LLMError
from e2llm.inference.answer import Source
from e2llm.inference.decoding.evidence import can_hide_chunks, hide_chunks
from e2llm.inference.layout import LaidOut
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.rates import TEXT_LEVEL

MOST_SOURCES = 5
# Hiding a chunk that an answer does not rest on changes its likelihood, too, mostly by less than this.
SIGNIFICANT_NATS = 1.0
_SENTENCE_END = re.compile(rf"(?:{SENTENCE_END.pattern})|(?=\n)|\Z")


def ranked_sources(laid: LaidOut) -> list[Source]:
    """Return the chunks that an answer may rest on: those given as text, then others, by relevance."""
    return [_source(laid, place) for place in _candidates(laid)]


def measured_sources(
    laid: LaidOut,
    answer_ids: list[int],
    decode: Callable[[list[int]], str],
    cache: DynamicCache | None = None,
) -> tuple[list[Source], str]:
    """Return the chunks without which an answer is less likely, and the answer with their numbers.

    Args:
        laid: The decoder's input.
        answer_ids: Tokens of the answer.
        decode: From ids to text.
        cache: See `hide_chunks`.

    Returns:
        The ranked sources that the answer loses at least `SIGNIFICANT_NATS` without, most first, or all of
        them if there is none; each has its weight. And the answer with `[n]` after each sentence that loses
        as much without the nth.
    """
    places = _candidates(laid)
    if not places or not answer_ids:
        return ranked_sources(laid), decode(answer_ids)
    lost = hide_chunks(laid, answer_ids, places, cache)
    weights = lost.sum(dim=1).tolist()
    order = [row for row, weight in enumerate(weights) if weight >= SIGNIFICANT_NATS]
    order.sort(key=lambda row: -weights[row])
    sources = [
        replace(_source(laid, places[row]), weight=round(weights[row], 3))
        for row in order or range(len(places))
    ]
    return sources, cite(decode, answer_ids, lost[order])


def measures_sources(model: E2LLMForConditionalGeneration, wanted: str | None) -> bool:
    """Return whether to measure an answer's sources: as wanted, and by default if the decoder allows it.

    Raises:
        E2LLMError: If the decoder does not allow it and it was asked for.
    """
    if wanted == "ranked":
        return False
    if can_hide_chunks(model):
        return True
    if wanted is None:
        return False
    config = model.config.text_config
    raise E2LLMError(
        f"sources='measured' needs a decoder whose layers all see all positions, with attention 'sdpa' or "
        f"'eager'; this one ({config.model_type}, {model.language_model.config._attn_implementation}) does "
        "not; use sources='ranked'"
    )


def coarse_sources(laid: LaidOut, sources: Sequence[Source]) -> list[int]:
    """Return the sources of an answer that were soft tokens, as many as fit the budget as text."""
    counts, chosen = laid.content.token_counts, []
    room = laid.budget - sum(counts[index] for index in laid.plan.expand)
    for source in sources:
        if source.level != TEXT_LEVEL and counts[source.chunk] <= room:
            chosen.append(source.chunk)
            room -= counts[source.chunk]
    return chosen


def cite(decode: Callable[[list[int]], str], answer_ids: list[int], lost: torch.Tensor) -> str:
    """Return an answer with the numbers of its sources after each sentence.

    Args:
        decode: From ids to text.
        answer_ids: A tokens.
        lost: `[K, A]` nats that each token loses without each source.
    """
    text = decode(answer_ids)
    if not len(lost):
        return text
    counts = range(1, len(answer_ids))  # of tokens; all of them if no fewer reach the end of a sentence
    cited, start, first = "", 0, 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if not text[start:end].strip():
            continue
        last = 1 + bisect_left(counts, end, key=lambda count: len(decode(answer_ids[:count])))
        found = lost[:, first:last].sum(dim=1)
        numbers = [f"[{row + 1}]" for row, nats in enumerate(found.tolist()) if nats >= SIGNIFICANT_NATS]
        cited += text[start:end] + (" " + "".join(numbers) if numbers else "")
        start, first = end, last
    return cited + text[start:]


def _candidates(laid: LaidOut) -> list[int]:
    """Return at most `MOST_SOURCES` places of chunks: as text first, then by relevance.

    If the question points at some chunks, the others are left out.
    """
    plan = laid.plan
    places = range(len(plan.kept))
    pointed = [place for place in places if plan.relevance[place] > 0] or places
    best = sorted(pointed, key=lambda place: (plan.counts[place] > 0, -plan.relevance[place]))
    return best[:MOST_SOURCES]


def _source(laid: LaidOut, place: int) -> Source:
    content, plan = laid.content, laid.plan
    index = plan.kept[place]
    chunk, document = content.chunks[index], content.documents[content.owners[index]]
    return Source(
        chunk=index,
        document=document.name,
        place=document.place_of(chunk.start, chunk.end),
        start=chunk.start,
        end=chunk.end,
        text=chunk.text,
        level=plan.levels[place],
        relevance=plan.relevance[place],
    )
