"""Tasks of kind `continue`: how likely the decoder finds a text, given it or what stands before it.

The runner takes `token_accuracy` (share of the first reference's tokens that the decoder predicts, given the
true ones before) and `loss_nats` (mean negative log-likelihood of a token) from the decoder. Perplexity is
the exponential of the mean loss; it is no mean of perplexities.
"""

import random
import re
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, Task, TaskKind, TaskRequest
from e2llm.evaluation.stretches import first_tokens, last_tokens, runs_of_chunks
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
    """A text whose likelihood is measured; where the task generates, `score` gets what was generated."""

    kind: ClassVar[TaskKind] = "continue"
    generates: ClassVar[bool] = False

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make `limit` items of each length.

        Raises:
            E2LLMError: If a length is too short, or no haystack holds enough text.
        """
        haystacks = [text.strip() for text in request.haystacks if text.strip()]
        if not haystacks:
            raise E2LLMError(f"{self.name} needs texts as haystacks; name a folder or file of them")
        if min(request.lengths) < _MIN_LENGTH_TOKENS:
            raise E2LLMError(
                f"{self.name} needs lengths of at least {_MIN_LENGTH_TOKENS} tokens, "
                f"got {min(request.lengths)}"
            )
        return self._made(request, haystacks)

    @abstractmethod
    def _made(self, request: TaskRequest, haystacks: Sequence[str]) -> Iterator[Item]:
        """The items; every haystack holds text, and every length is long enough."""

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Nothing: all is in the likelihood."""
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

    def _made(self, request: TaskRequest, haystacks: Sequence[str]) -> Iterator[Item]:
        for length in dict.fromkeys(min(length, MAX_RESTATED_TOKENS) for length in request.lengths):
            for index in range(request.limit):
                rng = random.Random(f"{request.seed}/{self.name}/{index}")
                text = _run_of_chunks(rng, haystacks, length, request.count_tokens)
                yield Item(
                    task=self.name,
                    id=f"{length}-{index}",
                    context=text,
                    prompt=UNDERSTANDING_PROMPT,
                    references=(text,),
                    groups={"length_tokens": length},
                )

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Character error rate and BLEU of what was generated."""
        return restatement_scores(prediction, item.references[0])


class PerplexityTask(LikelihoodTask):
    """The likelihood of a text's next tokens, given the text so far as context.

    A passage is the same at every length of the history. Where no haystack is long enough for the longest
    history, others stand before it, each after an empty line.
    """

    name = "perplexity"
    description = f"the loss on the next {NEXT_TOKENS} tokens of a text, given the text so far"
    metric = "loss_nats"

    def _made(self, request: TaskRequest, haystacks: Sequence[str]) -> Iterator[Item]:
        for length in request.lengths:
            for index in range(request.limit):
                rng = random.Random(f"{request.seed}/{self.name}/{index}")
                history, text = _passage(rng, haystacks, max(request.lengths), request.count_tokens)
                context = last_tokens(history, length, request.count_tokens)
                if request.count_tokens(context) < length * _MIN_FILLED_FRACTION:
                    raise E2LLMError(
                        f"the haystacks hold {request.count_tokens(context)} tokens before a passage, "
                        f"a history of {length} was asked for; name more texts or a shorter length"
                    )
                yield Item(
                    task=self.name,
                    id=f"{length}-{index}",
                    context=context,
                    prompt=CONTINUATION_PROMPT,
                    references=(text,),
                    groups={"length_tokens": length},
                )


def restatement_scores(prediction: str, reference: str) -> dict[str, float]:
    """Character error rate and BLEU of a text that was restated; 1 and 0 where nothing was generated."""
    from e2llm.evaluation.metrics import bleu, character_error_rate

    return {
        "character_error_rate": character_error_rate(prediction, reference),
        "bleu": bleu(prediction, reference),
    }


def _draw(rng: random.Random, sizes: Sequence[int]) -> tuple[int, int]:
    """Which of some sizes, and how far into it: uniform over them laid end to end."""
    ends = list(accumulate(sizes))
    place = rng.randrange(ends[-1])
    which = bisect_right(ends, place)
    return which, place - (ends[which] - sizes[which])


def _run_of_chunks(
    rng: random.Random, haystacks: Sequence[str], length: int, count_tokens: Callable[[str], int]
) -> str:
    """Whole chunks that follow each other, of at most `length` tokens; a first one beyond it is cut."""
    which, place = _draw(rng, [len(text) for text in haystacks])
    room = length * _MAX_CHARS_PER_TOKEN
    text = haystacks[which]
    start = _sentence_start(text, max(0, min(place, len(text) - length * _USUAL_CHARS_PER_TOKEN)))
    return next(runs_of_chunks(text[start : start + room], length, count_tokens))


def _passage(
    rng: random.Random, haystacks: Sequence[str], length: int, count_tokens: Callable[[str], int]
) -> tuple[str, str]:
    """A history of `length` tokens, or of what all texts together have, and the text after it."""
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
    """The start of the first sentence from `place` on; of the text's last one if there is none."""
    if place == 0:
        return 0
    match = _SENTENCE_END.search(text, max(0, place - 1))
    if match and match.end() < len(text):
        return match.end()
    starts = [found.end() for found in _SENTENCE_END.finditer(text, 0, place)]
    return starts[-1] if starts else 0
