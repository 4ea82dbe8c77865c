"""Choose the tokens of an answer: greedy or sampled, with penalties and a seed."""

from dataclasses import dataclass, field

import torch
from transformers.generation.logits_process import TopPLogitsWarper

from e2llm.errors import E2LLMError

_LEAST_TEMPERATURE = 1e-5  # below it, logits overflow, and one token has all probability


@dataclass(frozen=True)
class Sampling:
    """Options for choosing the tokens of an answer; the caller checks the ranges.

    Attributes:
        max_new_tokens: Most tokens of the answer, 1 or more.
        temperature: 0 (always the most likely token) to 2.
        top_p: Total probability of the most likely tokens to draw from, above 0 and at most 1.
        seed: Fixes the draws, whatever else is in the batch; None for a random seed.
        stop: Texts that end the answer; they are not part of it.
        presence_penalty: Subtracted from the logit of each token that the answer contains, -2 to 2.
        frequency_penalty: The same, once for each time that the answer contains the token.
        min_new_tokens: Fewest tokens before an end token, 0 to `max_new_tokens`; stop texts still apply.
        continues: Whether the answer continues the prompt's text; white space around it then belongs to it.

    Raises:
        E2LLMError: If `min_new_tokens` exceeds `max_new_tokens`, or a stop text is empty.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_new_tokens: int = 0
    continues: bool = False

    def __post_init__(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise E2LLMError(
                f"min_new_tokens must be at most max_new_tokens, {self.max_new_tokens}, got "
                f"{self.min_new_tokens}"
            )
        if not all(self.stop):
            raise E2LLMError("stop contains an empty text; leave it out")

    @property
    def has_penalties(self) -> bool:
        """Whether a penalty changes the logits of tokens that the answer contains."""
        return bool(self.presence_penalty or self.frequency_penalty)


@dataclass
class TokenChooser:
    """Choose the tokens of one answer.

    Args:
        sampling: The options of the request.
    """

    sampling: Sampling
    _generator: torch.Generator = field(init=False)
    _counts: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._generator = torch.Generator()
        if self.sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(self.sampling.seed)

    @property
    def takes_most_likely(self) -> bool:
        """Whether the token with the highest logit is always chosen."""
        return self._is_greedy and not self.sampling.has_penalties

    @property
    def _is_greedy(self) -> bool:
        return self.sampling.temperature < _LEAST_TEMPERATURE

    def choose(self, logits: torch.Tensor) -> int:
        """Return the next token.

        Args:
            logits: `[V]` on any device.
        """
        sampling = self.sampling
        scores = logits.float().cpu()
        if sampling.has_penalties and self._counts:
            scores = scores.clone()
            places = torch.tensor(list(self._counts))
            times = torch.tensor(list(self._counts.values()), dtype=torch.float32)
            scores[places] -= sampling.presence_penalty + sampling.frequency_penalty * times
        if self._is_greedy:
            token = int(scores.argmax())
        else:
            scores = (scores / sampling.temperature)[None]
            if sampling.top_p < 1:
                scores = TopPLogitsWarper(sampling.top_p)(None, scores)
            token = int(torch.multinomial(scores.softmax(dim=-1)[0], 1, generator=self._generator))
        if sampling.has_penalties:
            self._counts[token] = self._counts.get(token, 0) + 1
        return token
