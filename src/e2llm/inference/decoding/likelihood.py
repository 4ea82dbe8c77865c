"""Compute the likelihood of a given answer after an input."""

from dataclasses import dataclass, field

import torch

from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.prompts import IGNORE_INDEX


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of one text, its end included.

    Attributes:
        log_likelihood: Sum over its tokens, in nats.
        num_tokens: Number of its tokens, with the end token.
        num_greedy: Number of tokens that the decoder would have chosen, given the true ones before.
        greedy_ids: The decoder's choice at each token.
    """

    log_likelihood: float
    num_tokens: int
    num_greedy: int
    greedy_ids: list[int] = field(repr=False)

    @property
    def mean_loss_nats(self) -> float:
        """Negative log-likelihood per token."""
        return -self.log_likelihood / self.num_tokens

    @property
    def token_accuracy(self) -> float:
        """Share of its tokens that the decoder would have chosen, 0 to 1."""
        return self.num_greedy / self.num_tokens


def answer_ids(processor: E2LLMProcessor, answer: str) -> list[int]:
    """Return the decoder ids of an answer, with its end, as training lays it out."""
    template = processor.template
    return [*processor.encode(template.answer_prefix + answer), *template.after_answer]


def likelihood_of(logits: torch.Tensor, target_ids: list[int]) -> Likelihood:
    """Return the likelihood of target ids from their logits.

    Args:
        logits: `[N, V]`, before each target.
        target_ids: N ids.
    """
    scores = logits.float().log_softmax(dim=-1)
    targets = torch.tensor(target_ids, device=scores.device)
    total = scores.gather(1, targets[:, None]).double().sum().item()
    greedy = scores.argmax(dim=-1).tolist()
    num_greedy = sum(mine == true for mine, true in zip(greedy, target_ids, strict=True))
    return Likelihood(total, len(target_ids), num_greedy, greedy)


@torch.no_grad()
def likelihood(
    model: E2LLMForConditionalGeneration,
    input_ids: list[int],
    soft_tokens: torch.Tensor | None,
    target_ids: list[int],
) -> Likelihood:
    """Score target ids after an input.

    Args:
        model: In evaluation mode.
        input_ids: Decoder ids with placeholders.
        soft_tokens: `[R, D]` of the chunks that the placeholders stand for; None without chunks.
        target_ids: Ids to score; at least one.
    """
    device = model.get_input_embeddings().weight.device
    inputs = {
        "input_ids": torch.tensor([[*input_ids, *target_ids]], device=device),
        "labels": torch.tensor([[IGNORE_INDEX] * len(input_ids) + target_ids], device=device),
    }
    if soft_tokens is not None:
        inputs["chunk_embeds"] = soft_tokens.to(device)
    outputs = model(**inputs, only_label_logits=True, use_cache=False)
    return likelihood_of(outputs.logits, target_ids)
