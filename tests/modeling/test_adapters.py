"""The adapters against their written-out formulas; what holds for each is in `test_every_adapter.py`."""

import math

import pytest
import torch
from torch import nn

from e2llm.errors import E2LLMError
from e2llm.modeling.adapters import AttentionPoolingAdapter, MLPAdapter
from tiny_models import tiny_model

ENCODER_SIZE, DECODER_SIZE, HEADS = 12, 8, 2


def attention_adapter(num_queries=4):
    torch.manual_seed(0)
    adapter = AttentionPoolingAdapter(
        ENCODER_SIZE, DECODER_SIZE, max_soft_tokens=num_queries, num_heads=HEADS, pooling="mean", scale=0.3
    ).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.5)
    return adapter


def mlp_adapter(pooling):
    torch.manual_seed(0)
    adapter = MLPAdapter(
        ENCODER_SIZE, DECODER_SIZE, max_soft_tokens=1, num_heads=HEADS, pooling=pooling, scale=0.3
    ).double()
    nn.init.normal_(adapter.norm.weight)
    nn.init.normal_(adapter.norm.bias)
    return adapter


@pytest.fixture
def states():
    torch.manual_seed(1)
    return torch.randn(3, 5, ENCODER_SIZE, dtype=torch.float64)


@pytest.fixture
def mask():
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])


def linear(layer, x):
    return layer.weight @ x + layer.bias


def layer_norm(layer, x):
    centred = x - x.mean()
    return centred / torch.sqrt(centred.pow(2).mean() + layer.eps) * layer.weight + layer.bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def written_out(adapter, tokens, query):
    """`h = LN(MHA(q, X W_K, X W_V) + q)`, `c = LN(h + FFN(h))`, scaled; one chunk, one query, loops only."""
    size = DECODER_SIZE // HEADS
    q = linear(adapter.query_projection, query)
    keys = [linear(adapter.key_projection, token) for token in tokens]
    values = [linear(adapter.value_projection, token) for token in tokens]
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = [math.exp((q[part] @ key[part]).item() / math.sqrt(size)) for key in keys]
        heads.append(
            sum(score / sum(scores) * value[part] for score, value in zip(scores, values, strict=True))
        )
    attended = linear(adapter.output_projection, torch.cat(heads))
    hidden = layer_norm(adapter.attention_norm, attended + query)
    feed_forward = linear(adapter.feed_forward_out, gelu(linear(adapter.feed_forward_in, hidden)))
    return layer_norm(adapter.output_norm, hidden + feed_forward) * adapter.scale


def test_the_attention_adapter_is_the_papers_formula(states, mask):
    adapter = attention_adapter()
    soft_tokens = adapter(states, mask, 4)
    for chunk, length in enumerate([5, 2, 1]):
        for index in range(4):
            expected = written_out(adapter, states[chunk, :length], adapter.queries[index])
            torch.testing.assert_close(soft_tokens[chunk, index], expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_mlp_adapter_is_two_layers_with_gelu_over_one_vector(states, mask, pooling):
    adapter = mlp_adapter(pooling)
    soft_tokens = adapter(states, mask, 1)
    for chunk, length in enumerate([5, 2, 1]):
        pooled = states[chunk, 0] if pooling == "cls" else states[chunk, :length].mean(dim=0)
        hidden = linear(adapter.output_projection, gelu(linear(adapter.input_projection, pooled)))
        expected = layer_norm(adapter.norm, hidden) * adapter.scale
        torch.testing.assert_close(soft_tokens[chunk, 0], expected, atol=1e-12, rtol=1e-10)


def test_the_first_soft_tokens_do_not_depend_on_how_many_are_made(states, mask):
    adapter = attention_adapter()
    whole = adapter(states, mask, 4)
    for count in (1, 2, 3):
        torch.testing.assert_close(adapter(states, mask, count), whole[:, :count], atol=1e-13, rtol=0)


@pytest.mark.parametrize("make", [attention_adapter, lambda: mlp_adapter("mean"), lambda: mlp_adapter("cls")])
def test_masked_tokens_do_not_matter(states, mask, make):
    adapter = make()
    other = torch.where(mask.bool().unsqueeze(-1), states, torch.full_like(states, 1e3))
    assert torch.equal(adapter(states, mask, 1), adapter(other, mask, 1))


def test_cls_reads_the_first_real_token_of_a_left_padded_chunk(states):
    adapter = mlp_adapter("cls")
    left_padded = torch.tensor([[0, 0, 1, 1, 1]] * 3)
    expected = adapter(states[:, 2:], torch.ones(3, 3), 1)
    assert torch.equal(adapter(states, left_padded, 1), expected)


def test_soft_tokens_start_at_the_scale_of_the_decoders_embeddings():
    model = tiny_model()
    states = torch.randn(16, 6, 32)
    soft_tokens = model.keep(states, torch.ones(16, 6), 4)
    embeddings = model.get_input_embeddings().weight
    assert soft_tokens.pow(2).mean().sqrt().item() == pytest.approx(
        embeddings.pow(2).mean().sqrt().item(), rel=0.05
    )


def test_the_mlp_adapter_refuses_more_than_one_soft_token():
    with pytest.raises(E2LLMError, match="1 soft token per chunk, got max_soft_tokens=4"):
        tiny_model(adapter="mlp", max_soft_tokens=4)


def test_heads_must_divide_the_decoders_width():
    with pytest.raises(E2LLMError, match="adapter_num_heads=5 does not divide the decoder's width 32"):
        tiny_model(adapter_num_heads=5)


def test_an_unknown_adapter_or_pooling_is_refused():
    with pytest.raises(E2LLMError, match="adapter must be one of pooling, attention, mlp, got 'conv'"):
        tiny_model(adapter="conv")
    with pytest.raises(E2LLMError, match="pooling must be 'cls' or 'mean', got 'max'"):
        tiny_model(adapter="mlp", max_soft_tokens=1, pooling="max")


def test_from_parts_chooses_the_papers_number_of_soft_tokens_for_the_mlp_adapter():
    assert tiny_model(adapter="mlp", max_soft_tokens=None).config.max_soft_tokens == 1
    assert tiny_model(adapter="attention", max_soft_tokens=None).config.max_soft_tokens == 8
