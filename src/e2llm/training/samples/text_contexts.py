"""Make reasoning samples whose context is raw text, to train baselines.

Contexts are cut by the functions that the systems of `e2llm.evaluation.systems` cut with: a sample's input is
what the system of its view gives the decoder for the same record, budget and positions of the answer.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import get_args

from e2llm.errors import E2LLMError
from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.raw_text import Passages, RawText, best_passages, head_and_tail, lay_out_raw
from e2llm.records import Record
from e2llm.training.recipes.objectives import ReasoningObjective, View


def text_budgets(settings: ReasoningObjective, window: int | None) -> list[int | None]:
    """Return the budgets to draw from, in positions; None alone for no limit.

    Args:
        settings: With `context: text`.
        window: Positions of the decoder.

    Raises:
        E2LLMError: If a budget exceeds the window.
    """
    if not settings.text_budgets:
        return [window]
    most = max(settings.text_budgets)
    if window is not None and most > window:
        raise E2LLMError(
            f"objectives.reasoning.text_budgets has {most}, but the decoder's window has {window} positions; "
            "lower it"
        )
    return list(settings.text_budgets)


class TextContexts:
    """Lays reasoning samples out with raw text.

    Args:
        processor: Splits contexts into passages and lays samples out.
        settings: The views and the budgets.
        window: Positions of the decoder.

    Raises:
        E2LLMError: If a budget exceeds the window.
    """

    def __init__(self, processor: E2LLMProcessor, settings: ReasoningObjective, window: int | None) -> None:
        self.processor = processor
        self.budgets = text_budgets(settings, window)
        self.views = {name: settings.text_views.get(name, 0.0) for name in get_args(View)}
        # Numbers are kept for all contexts, which the records hold anyhow, passages for a few.
        self._num_tokens = lru_cache(maxsize=None)(self._count)
        self._passages = lru_cache(maxsize=64)(lambda text: Passages.of(processor, text))

    def draw(self, asked: Sequence[Record], rng: random.Random) -> DecoderInput:
        """Lay out a sample by a drawn view in a drawn budget.

        Args:
            asked: Questions about one context; where the context does not fit whole, the last is asked alone.
            rng: The sample's draws.

        Raises:
            E2LLMError: If question and answer exceed the budget.
        """
        view = rng.choices(list(self.views), list(self.views.values()))[0]
        budget = rng.choice(self.budgets)
        if len(asked) > 1 and view != "closed_book":
            history = [(item.prompt, item.answer) for item in asked[:-1]]
            last = asked[-1]
            made = lay_out_raw(self.processor, last.context, last.prompt, last.answer, history)
            if budget is None or len(made.input_ids) <= budget:
                return made
        return self.lay_out(asked[-1], view, budget)

    def lay_out(self, record: Record, view: str, budget: int | None) -> DecoderInput:
        """A sample.

        Args:
            record: The record.
            view: `truncate`, `bm25` or `closed_book`.
            budget: Positions of input and answer; None for no limit.

        Raises:
            E2LLMError: If question and answer exceed the budget.
        """
        room = None
        if budget is not None:
            around = len(lay_out_raw(self.processor, "", record.prompt, record.answer).input_ids)
            if around > budget:
                raise E2LLMError(
                    f"question and answer of record {record.id or record.prompt[:60]!r} need {around} "
                    f"positions, but the budget is {budget}; raise objectives.reasoning.text_budgets"
                )
            room = budget - around
        given = self._view(record, view, room)
        return lay_out_raw(self.processor, given.text, record.prompt, record.answer)

    def _view(self, record: Record, view: str, room: int | None) -> RawText:
        """Return a view of a record's context within a number of tokens."""
        text = record.context
        if view == "closed_book":
            return RawText("")
        if room is None or self._num_tokens(text) <= room:
            return RawText.whole(text)
        if view == "truncate":
            return head_and_tail(text, room, self._count)
        passages = self._passages(text)
        return best_passages(text, room, passages, passages.index.scores(record.prompt), self._count)

    def _count(self, text: str) -> int:
        return len(self.processor.encode(text))
