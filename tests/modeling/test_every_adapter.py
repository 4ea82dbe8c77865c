"""What holds for every adapter in `ADAPTERS`: a new one is tested here by being there."""

import pytest
import torch
from torch import nn

from e2llm import E2LLMForConditionalGeneration
from e2llm.errors import E2LLMError
from e2llm.modeling.adapters import ADAPTERS
from tiny_models import WIDTH, tiny_model

everyone = pytest.mark.parametrize("name", list(ADAPTERS))
by_number = pytest.mark.parametrize(
    "name", [name for name, made in ADAPTERS.items() if made.dial == "soft_tokens"]
)
CHUNKS, TOKENS = 3, 5


def make(name):
    """A tiny model with the adapter, of 4 soft tokens, or of 1 where the adapter makes no more."""
    try:
        return tiny_model(adapter=name, max_soft_tokens=4)
    except E2LLMError:
        return tiny_model(adapter=name, max_soft_tokens=1)


def counts(model):
    return range(1, model.config.max_soft_tokens + 1)


@pytest.fixture
def states(name):
    """States as wide as those of the layers that the adapter reads."""
    width = WIDTH * len(make(name).config.encoder_layers or [-1])
    return torch.randn(CHUNKS, TOKENS, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])


@by_number
def test_it_makes_as_many_soft_tokens_as_are_asked_for(name, states, mask):
    model = make(name)
    for count in counts(model):
        assert model.adapter(states, mask, count).shape == (CHUNKS, count, WIDTH)


@by_number
@torch.no_grad()
def test_the_first_soft_tokens_do_not_depend_on_how_many_are_made(name, states, mask):
    model = make(name)
    whole = model.adapter(states, mask, model.config.max_soft_tokens)
    for count in counts(model):
        torch.testing.assert_close(model.adapter(states, mask, count), whole[:, :count], atol=1e-6, rtol=0)


@everyone
@torch.no_grad()
def test_states_at_masked_places_do_not_matter(name, states, mask):
    model = make(name)
    most = model.config.max_soft_tokens
    other = torch.where(mask.bool().unsqueeze(-1), states, torch.full_like(states, 1e3))
    assert torch.equal(model.adapter(states, mask, most), model.adapter(other, mask, most))


@everyone
@torch.no_grad()
def test_a_chunk_is_read_alone_as_among_others(name, states, mask):
    model = make(name)
    most = model.config.max_soft_tokens
    together = model.adapter(states, mask, most)
    for chunk in range(CHUNKS):
        alone = model.adapter(states[chunk : chunk + 1], mask[chunk : chunk + 1], most)
        torch.testing.assert_close(alone[0], together[chunk, : alone.shape[1]], atol=1e-6, rtol=1e-5)


@everyone
def test_all_its_parameters_train(name, states, mask):
    model = make(name)
    kept = model.adapter(states, mask, model.config.max_soft_tokens)
    model.soften(kept, mask.sum(dim=1), torch.ones(CHUNKS)).pow(3).sum().backward()
    assert [key for key, item in model.adapter.named_parameters() if item.grad is None] == []


@by_number
def test_its_scale_is_a_parameter_that_starts_where_the_model_says(name):
    model = make(name)
    assert isinstance(model.adapter.scale, nn.Parameter)
    assert model.adapter.scale.item() == pytest.approx(model.config.soft_token_scale)


@everyone
def test_what_is_saved_is_loaded(name, states, mask, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path)
    loaded = E2LLMForConditionalGeneration.from_pretrained(tmp_path)
    ours, theirs = model.adapter.state_dict(), loaded.adapter.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(item, theirs[key]) for key, item in ours.items())
