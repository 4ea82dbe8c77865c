"""Tasks of kind `continue`: how likely the decoder finds a text, given the text itself or the text before it.

The runner takes `token_accuracy` (share of the first reference's tokens that the decoder predicts, given the
true ones before) and `loss_nats` (mean negative log-likelihood of a token) from the decoder. Perplexity is
the exponential of the mean loss, not a mean of perplexities.
"""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, Task, TaskKind, TaskRequest
from e2llm.evaluation.metrics import bleu, character_error_rate
from e2llm.evaluation.tasks.stretches import check_lengths, first_tokens, last_tokens, runs_of_chunks
from e2llm.prompts import UNDERSTANDING_PROMPT

CONTINUATION_PROMPT = "Continue the text."
MAX_RESTATED_TOKENS = 512
NEXT_TOKENS = 256

_MIN_LENGTH_TOKENS = 16
_MAX_CHARS_PER_TOKEN = 8  # of prose, on average: no more of a long text is looked at
_USUAL_CHARS_PER_TOKEN = 4
_MIN_FILLED_FRACTION = 0.9  # of the length that was asked for
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*\s+")


class LikelihoodTask(Task):
    """A text whose likelihood is measured; where the task generates, `score` gets the generated text."""

    kind: ClassVar[TaskKind] = "continue"
    generates: ClassVar[bool] = False
    max_length_tokens: ClassVar[int | None] = None
    """Longest length of an item in tokens; None without a limit."""

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make `limit` items of each length.

        Raises:
            E2LLMError: If a length is too short, or the haystacks have too little text.
        """
        check_lengths(self.name, request, _MIN_LENGTH_TOKENS)
        haystacks = [text.strip() for text in request.haystacks if text.strip()]
        lengths = [min(length, self.max_length_tokens or length) for length in request.lengths]
        for length in dict.fromkeys(lengths):
            for index in range(request.limit):
                rng = random.Random(f"{request.seed}/{self.name}/{index}")
                context, prompt, text = self.draw(rng, request, haystacks, length)
                groups = {"length_tokens": length}
                yield Item(self.name, f"{length}-{index}", context, prompt, (text,), groups=groups)

    def draw(
        self, rng: random.Random, request: TaskRequest, haystacks: Sequence[str], length: int
    ) -> tuple[str, str, str]:
        """Draw a context of a length, and return it with the prompt and the text to measure."""
        raise NotImplementedError

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return no scores: the likelihood says it all."""
        return {}


class RestatementTask(LikelihoodTask):
    """Restating a run of chunks word for word (arXiv 2409.06679, the understanding objective).

    Lengths beyond `MAX_RESTATED_TOKENS` are cut to it, as the text is generated, too.
    """

    name = "restatement"
    description = "a text restated word for word: next-token accuracy and loss, character error rate, BLEU"
    metric = "token_accuracy"
    max_new_tokens = MAX_RESTATED_TOKENS
    generates = True
    max_length_tokens = MAX_RESTATED_TOKENS

    def draw(
        self, rng: random.Random, request: TaskRequest, haystacks: Sequence[str], length: int
    ) -> tuple[str, str, str]:
        """Draw a text, which is its own context."""
        text = _run_of_chunks(rng, haystacks, length, request.count_tokens)
        return text, UNDERSTANDING_PROMPT, text

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return character error rate and BLEU of the generated text."""
        return restatement_scores(prediction, item.references[0])


class PerplexityTask(LikelihoodTask):
    """The likelihood of a text's next tokens, given the text so far as context.

    A passage is the same at every length of the history. Where no haystack is long enough for the longest
    history, others come before it, separated by empty lines.
    """

    name = "perplexity"
    description = f"the loss on the next {NEXT_TOKENS} tokens of a text, given the text so far"
    metric = "loss_nats"

    def draw(
        self, rng: random.Random, request: TaskRequest, haystacks: Sequence[str], length: int
    ) -> tuple[str, str, str]:
        """Draw a passage with the text before it."""
        history, text = _passage(rng, haystacks, max(request.lengths), request.count_tokens)
        context = last_tokens(history, length, request.count_tokens)
        found = request.count_tokens(context)
        if found < length * _MIN_FILLED_FRACTION:
            raise E2LLMError(
                f"the haystacks have {found} tokens before a passage, but a history of {length} was "
                "requested; name a shorter length"
            )
        return context, CONTINUATION_PROMPT, text


def restatement_scores(prediction: str, reference: str) -> dict[str, float]:
    """Return character error rate and BLEU of a restated text; 1 and 0 where nothing was generated."""
    return {
        "character_error_rate": character_error_rate(prediction, reference),
        "bleu": bleu(prediction, reference),
    }


def _draw(rng: random.Random, sizes: Sequence[int]) -> tuple[int, int]:
    """Draw one of some sizes and a place in it, uniformly over the sizes laid end to end."""
    ends = list(accumulate(sizes))
    place = rng.randrange(ends[-1])
    which = bisect_right(ends, place)
    return which, place - (ends[which] - sizes[which])


def _run_of_chunks(
    rng: random.Random, haystacks: Sequence[str], length: int, count_tokens: Callable[[str], int]
) -> str:
    """Return whole chunks in sequence, of at most `length` tokens; a longer first chunk is cut."""
    which, place = _draw(rng, [len(text) for text in haystacks])
    room = length * _MAX_CHARS_PER_TOKEN
    text = haystacks[which]
    start = _sentence_start(text, max(0, min(place, len(text) - length * _USUAL_CHARS_PER_TOKEN)))
    return next(runs_of_chunks(text[start : start + room], length, count_tokens))


def _passage(
    rng: random.Random, haystacks: Sequence[str], length: int, count_tokens: Callable[[str], int]
) -> tuple[str, str]:
    """Return a history of `length` tokens, or of all texts together, and the text after it."""
    history_chars, next_chars = length * _MAX_CHARS_PER_TOKEN, NEXT_TOKENS * _MAX_CHARS_PER_TOKEN
    free = [max(0, len(text) - history_chars - next_chars) for text in haystacks]
    if any(free):
        which, place = _draw(rng, free)
        place += history_chars
    else:  # in the second half of a text, so that much of the history is its own
        halves = [max(2, len(text) - NEXT_TOKENS * _USUAL_CHARS_PER_TOKEN) // 2 for text in haystacks]
        which, place = _draw(rng, halves)
        place += halves[which] if halves[which] > 1 else 0
    text = haystacks[which]
    place = _sentence_start(text, place)
    others = [other for number, other in enumerate(haystacks) if number != which]
    rng.shuffle(others)
    history = text[:place].strip()
    while others and len(history) < history_chars:
        history = f"{others.pop()}\n\n{history}".strip()
    return history, first_tokens(text[place : place + next_chars], NEXT_TOKENS, count_tokens).strip()


def _sentence_start(text: str, place: int) -> int:
    """Return the start of the first sentence from `place` on, else of the text's last sentence."""
    if place == 0:
        return 0
    match = _SENTENCE_END.search(text, max(0, place - 1))
    if match and match.end() < len(text):
        return match.end()
    starts = [found.end() for found in _SENTENCE_END.finditer(text, 0, place)]
    return starts[-1] if starts else 0
