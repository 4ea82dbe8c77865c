"""How tokens are chosen: the same as transformers' own sampling, and as OpenAI words the penalties."""

import pytest
import torch

from e2llm.errors import E2LLMError
from e2llm.inference.decoding.sampling import Sampling, TokenChooser

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0])


def test_temperature_zero_takes_the_likeliest():
    assert TokenChooser(Sampling(1)).choose(LOGITS) == 1
    assert TokenChooser(Sampling(1)).takes_most_likely


def test_a_temperature_too_small_to_divide_by_takes_the_likeliest():
    assert TokenChooser(Sampling(1, temperature=5e-324)).choose(LOGITS * 100) == 1


def test_drawn_tokens_follow_the_probabilities_at_the_temperature():
    chooser = TokenChooser(Sampling(1, temperature=2.0, seed=3))
    counts = torch.bincount(torch.tensor([chooser.choose(LOGITS) for _ in range(4000)]), minlength=4)
    torch.testing.assert_close(counts / 4000, (LOGITS / 2).softmax(0), atol=0.03, rtol=0)


def test_top_p_leaves_out_the_unlikely_ones():
    chooser = TokenChooser(Sampling(1, temperature=1.0, top_p=0.8, seed=3))
    assert {chooser.choose(LOGITS) for _ in range(300)} == {1, 2}


def test_the_presence_penalty_counts_a_token_once_and_the_frequency_penalty_each_time():
    present = TokenChooser(Sampling(9, presence_penalty=0.9))
    assert [present.choose(LOGITS) for _ in range(4)] == [1, 1, 1, 1]
    often = TokenChooser(Sampling(9, frequency_penalty=0.6))
    assert [often.choose(LOGITS) for _ in range(4)] == [1, 1, 2, 1]


def test_a_shortest_answer_above_the_longest_is_refused():
    with pytest.raises(E2LLMError, match="min_new_tokens must be at most max_new_tokens, 4, got 5"):
        Sampling(4, min_new_tokens=5)
