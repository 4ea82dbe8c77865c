"""Faster LoRA layers and packed attention equal peft's and transformers' own."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as PeftLinear
from transformers import LlamaConfig, LlamaForCausalLM

from e2llm.modeling.lora import LoraSettings, add_lora
from e2llm.training.cpu_speed import FastLoraLinear, find_segments, packed_attention, speed_up

LENGTHS = (5, 1, 9)


def make_decoder(dropout: float = 0.0, dtype: torch.dtype = torch.float32, bias: bool = False) -> Any:
    """A Llama of two layers with LoRA whose deltas are not zero."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attention_bias=bias,
    )  # fmt: skip
    decoder = LlamaForCausalLM(config)
    decoder.requires_grad_(False)
    add_lora(decoder, LoraSettings(rank=4, dropout=dropout))
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    return decoder.train()


def packed_positions() -> torch.Tensor:
    """Position ids `[1, 15]` of samples of `LENGTHS`."""
    return torch.cat([torch.arange(length) for length in LENGTHS])[None]


def run(decoder: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    """Logits of a packed row, and the gradients of its embeddings and of every LoRA parameter."""
    dtype = decoder.get_input_embeddings().weight.dtype
    embeds = torch.randn(1, sum(LENGTHS), 32, generator=torch.Generator().manual_seed(1))
    embeds = embeds.to(dtype).requires_grad_()
    given = {"position_ids": packed_positions(), "use_cache": False, **kwargs}
    logits = decoder(inputs_embeds=embeds, **given).logits
    logits.float().pow(2).sum().backward()
    gradients = {name: item.grad for name, item in decoder.named_parameters() if item.requires_grad}
    return {"logits": logits.detach(), "embeds": embeds.grad, **gradients}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], limit: float) -> None:
    """Compare all tensors, each relative to its largest value."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        difference = (ours[name].float() - tensor.float()).abs().max() / tensor.float().abs().max()
        assert difference <= limit, f"{name}: {difference}"


@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients_equal_those_of_peft(bias: bool) -> None:
    decoder = make_decoder(bias=bias)
    fast = copy.deepcopy(decoder)
    assert speed_up(fast) == 14
    assert_same(run(fast), run(decoder), 1e-5)


def test_in_bf16_the_fp32_masters_get_fp32_gradients_near_the_exact_ones() -> None:
    exact = run(make_decoder())
    fast = make_decoder(dtype=torch.bfloat16)
    speed_up(fast)
    ours = run(fast)
    assert all(ours[name].dtype == torch.float32 for name in ours if "lora_" in name)
    assert_same(ours, exact, 0.06)


def test_under_autocast_fp32_weights_are_used_in_bf16() -> None:
    exact, fast = run(make_decoder()), make_decoder()
    speed_up(fast)
    with torch.autocast("cpu", torch.bfloat16):
        ours = run(fast)
    assert ours["embeds"].dtype == torch.float32
    assert_same(ours, exact, 0.06)


def test_samples_of_a_row_do_not_see_each_other() -> None:
    decoder = make_decoder(dtype=torch.bfloat16)
    speed_up(decoder)
    ids = torch.arange(sum(LENGTHS))[None]
    packed = decoder(input_ids=ids, position_ids=packed_positions(), use_cache=False).logits
    alone = decoder(input_ids=ids[:, 6:], use_cache=False).logits
    torch.testing.assert_close(packed[:, 6:], alone, atol=2e-3, rtol=2e-2)


def test_padded_rows_and_generation_equal_those_of_transformers() -> None:
    decoder = make_decoder().eval()
    fast = copy.deepcopy(decoder)
    speed_up(fast)
    ids = torch.arange(12).view(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    for model in (decoder, fast):
        model.generation_config.pad_token_id = 0
    wanted, got = (model(input_ids=ids, attention_mask=mask).logits for model in (decoder, fast))
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)
    for given in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[1:]}):
        assert torch.equal(*(model.generate(**given, max_new_tokens=8) for model in (decoder, fast)))


@pytest.mark.parametrize("case", ["dropout", "disabled", "merged", "two adapters"])
def test_what_is_no_plain_lora_is_left_to_peft(case: str) -> None:
    decoder = make_decoder(dropout=0.5 if case == "dropout" else 0.0)
    if case == "two adapters":
        decoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), "other")
        decoder.set_adapter(["default", "other"])
    fast = copy.deepcopy(decoder)
    speed_up(fast)
    for model in (decoder, fast):
        for layer in [item for item in model.modules() if isinstance(item, PeftLinear)]:
            if case == "disabled":
                layer.enable_adapters(False)
            elif case == "merged":
                layer.merge()
    results = []
    for model in (fast, decoder):
        torch.manual_seed(7)
        results.append(model(inputs_embeds=torch.ones(1, 4, 32), use_cache=False).logits)
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_names_and_values_stay() -> None:
    decoder = make_decoder()
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    speed_up(decoder)
    assert decoder.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.state_dict().items())
    assert any(isinstance(layer, FastLoraLinear) for layer in decoder.modules())


def test_a_layer_whose_base_trains_is_left_alone() -> None:
    decoder = make_decoder()
    decoder.requires_grad_(True)
    assert speed_up(decoder) == 0
    assert decoder.config._attn_implementation == "sdpa"


def test_a_decoder_with_a_sliding_window_keeps_its_attention() -> None:
    decoder = make_decoder()
    decoder.config.sliding_window = 4
    speed_up(decoder)
    assert decoder.config._attn_implementation == "sdpa"


def test_segments_begin_where_positions_do_not_rise() -> None:
    assert find_segments(torch.tensor([[0, 1, 4, 0, 0, 1]])) == [(0, 3), (3, 4), (4, 6)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_attention_of_segments_equals_attention_of_each(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 15, 8), (1, 2, 15, 8), (1, 2, 15, 8))
    ours = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    theirs = [item.detach().clone().requires_grad_() for item in ours]
    got, _ = packed_attention(None, *ours, None, position_ids=packed_positions())
    allowed = (packed_positions()[0] <= packed_positions()[0][:, None]) & torch.ones(15, 15).tril().bool()
    sample = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
    allowed &= sample == sample[:, None]
    keys, values = (item.repeat_interleave(2, dim=1) for item in theirs[1:])
    scores = (theirs[0] @ keys.transpose(2, 3) / 8**0.5).masked_fill(~allowed, float("-inf"))
    wanted = (scores.softmax(-1) @ values).transpose(1, 2)
    weights = torch.randn(got.shape, generator=generator, dtype=dtype)
    (got * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)
    for item, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(item.grad, other.grad, atol=1e-6, rtol=1e-5)
