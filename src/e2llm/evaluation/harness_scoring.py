"""What the decoder holds of given tokens, and where it stops: the two questions that lm_eval asks a model.

Shapes: R soft tokens, D decoder width, L decoder tokens, N scored tokens, V vocabulary.
"""

import inspect
from collections.abc import Callable, Hashable, Sequence

import torch
from transformers import StoppingCriteria

from e2llm.inference.engine import Engine


class TokenScorer:
    """Log-likelihood of the last tokens of an input.

    Args:
        engine: Its model scores.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        takes = inspect.signature(engine.model.language_model.forward).parameters
        self._takes_logits_to_keep = "logits_to_keep" in takes
        self._latest: tuple[Hashable, torch.Tensor] | None = None

    def score(
        self,
        ids: Sequence[int],
        num_scored: int,
        soft_tokens: torch.Tensor | None = None,
        source: Hashable = None,
    ) -> tuple[float, bool]:
        """Score the last tokens of an input.

        The last token is scored and not read, so that the input may be one longer than the window. Choices of
        one token after the same text take one pass.

        Args:
            ids: L decoder ids with placeholders.
            num_scored: N, from 1 to L - 1.
            soft_tokens: `[R, D]` of the chunks that the placeholders stand for; None without any.
            source: What tells `soft_tokens` apart from others.

        Returns:
            Sum of the log-probabilities in nats, and whether greedy decoding would have given these tokens.
            As the placeholder is never generated, it does not count as a greedy choice.
        """
        assert 0 < num_scored < len(ids), (num_scored, len(ids))
        logits = self._logits(list(ids[:-1]), num_scored, soft_tokens, source)
        targets = torch.tensor(ids[-num_scored:], device=logits.device)
        log_likelihoods = logits.log_softmax(dim=-1).gather(1, targets[:, None])
        choices = logits.clone()
        choices[:, self._engine.model.config.chunk_token_id] = -torch.inf
        is_greedy = bool((choices.argmax(dim=-1) == targets).all())
        return log_likelihoods.double().sum().item(), is_greedy

    @torch.no_grad()
    def _logits(
        self, ids: list[int], num_last: int, soft_tokens: torch.Tensor | None, source: Hashable
    ) -> torch.Tensor:
        """`[N, V]` float32 logits at the last positions."""
        key = (tuple(ids), source)
        if num_last == 1 and self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        device = self._engine.device
        inputs = {"input_ids": torch.tensor([ids], device=device)}
        if soft_tokens is not None:
            inputs["chunk_embeds"] = soft_tokens.to(device)
        options = {"logits_to_keep": num_last} if self._takes_logits_to_keep else {}
        outputs = self._engine.model(**inputs, use_cache=False, **options)
        logits: torch.Tensor = outputs.logits[0, -num_last:].float()
        if num_last == 1:
            self._latest = (key, logits)
        return logits


class StopTexts(StoppingCriteria):  # type: ignore[misc]
    """Ends an answer as soon as one of some texts stands in it.

    Args:
        texts: The texts, none of them empty.
        decode: Ids of an answer to its text, control tokens included.
        num_prompt_ids: Ids before the answer.
    """

    def __init__(self, texts: Sequence[str], decode: Callable[[list[int]], str], num_prompt_ids: int) -> None:
        self._texts = texts
        self._decode = decode
        self._num_prompt_ids = num_prompt_ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """Whether each row `[B]` of `input_ids` `[B, L]` is done."""
        answers = [self._decode(row) for row in input_ids[:, self._num_prompt_ids :].tolist()]
        done = [any(text in answer for text in self._texts) for answer in answers]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
