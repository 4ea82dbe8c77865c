"""LoRA: what trains, what it targets, merging, and files that peft itself reads."""

import pytest
import torch

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from tiny_models import DECODERS, ENCODERS, tiny_decoder, tiny_encoder, tiny_model

NOT_ADAPTED = {
    "lm_head",
    "embed_out",
    "project_in",
    "project_out",
}  # heads and projections of embeddings stay as they are


def linear_names(part):
    """Names of the layers between tokens and states that multiply by a matrix."""
    kinds = ("Linear", "Conv1D")
    return {name for name, module in part.named_modules() if type(module).__name__ in kinds}


def randomise(model):
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("family", DECODERS)
def test_the_target_table_covers_every_layer_of_each_decoder(family):
    decoder = tiny_decoder(family)
    lora.add_lora(decoder, lora.LoraSettings(rank=2))
    adapted = {name for name, _ in lora.lora_layers(decoder)}
    plain = linear_names(tiny_decoder(family))
    assert {name for name in plain - adapted if name.split(".")[-1] not in NOT_ADAPTED} == set()


@pytest.mark.parametrize("family", ENCODERS)
def test_the_target_table_covers_queries_keys_and_values_of_each_encoder(family):
    encoder = tiny_encoder(family)
    lora.add_lora(encoder, lora.LoraSettings(rank=2))
    adapted = [name for name, _ in lora.lora_layers(encoder)]
    assert len(adapted) == {"modernbert": 2, "qwen3": 14, "mistral": 14}.get(family, 6)
    of_attention = [name for name in adapted if "atten" in name or "attn" in name]
    assert len(of_attention) == (8 if len(adapted) == 14 else len(adapted))  # causal ones: as decoders are


def test_conv1d_layers_are_adapted_the_right_way_round_without_a_warning(recwarn):
    decoder = tiny_decoder("gpt2")
    lora.add_lora(decoder, lora.LoraSettings(rank=2))
    layer = decoder.transformer.h[0].attn.c_attn
    assert layer.fan_in_fan_out
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]
    assert layer.lora_A["default"].weight.shape == (2, 32)
    assert layer.lora_B["default"].weight.shape == (96, 2)


@pytest.mark.parametrize("decoder", ["llama", "gpt2", "phi3"])
def test_merging_twice_or_without_lora_changes_nothing(decoder, inputs):
    model = tiny_model("bert", decoder)
    plain = model(**inputs).logits
    assert torch.equal(lora.merge_lora(model)(**inputs).logits, plain)
    lora.set_modes(model, encoder="lora", decoder="lora")
    randomise(model).eval()
    attached = model(**inputs).logits
    merged = lora.merge_lora(model)(**inputs).logits
    torch.testing.assert_close(merged, attached, atol=2e-4, rtol=1e-3)
    assert torch.equal(lora.merge_lora(model)(**inputs).logits, merged)
    assert not torch.allclose(merged, plain, atol=1e-3)
    assert not lora.has_lora(model)


def test_lora_can_be_attached_again_after_merging(inputs):
    model = tiny_model()
    lora.set_modes(model, decoder="lora")
    lora.merge_lora(randomise(model))
    merged = model(**inputs).logits
    lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(rank=3))
    assert torch.equal(model.eval()(**inputs).logits, merged)


def test_fresh_lora_changes_nothing(model, inputs):
    plain = model(**inputs).logits
    lora.set_modes(model, encoder="lora", decoder="lora")
    assert torch.equal(model.eval()(**inputs).logits, plain)


@pytest.mark.parametrize("encoder", ["frozen", "lora", "full"])
@pytest.mark.parametrize("decoder", ["frozen", "lora", "full"])
def test_modes_say_what_trains(model, encoder, decoder):
    report = lora.set_modes(model, encoder=encoder, decoder=decoder, adapter="frozen")
    for part, mode in (("encoder", encoder), ("decoder", decoder)):
        trained, total = report.counts[part]
        assert trained == {"frozen": 0, "lora": trained, "full": total}[mode]
        names = [
            name for name, p in getattr(model, lora.PART_MODULES[part]).named_parameters() if p.requires_grad
        ]
        assert all("lora_" in name for name in names) or mode == "full"
        assert bool(names) == (mode != "frozen")
    assert report.counts["adapter"][0] == 0


def test_the_report_names_parts_and_shares(model):
    text = str(lora.set_modes(model, decoder="lora"))
    assert [line.split(":")[0].strip() for line in text.splitlines()] == ["encoder", "adapter", "decoder"]
    assert "(100.00%)" in text.splitlines()[1]
    assert "(0.00%)" in text.splitlines()[0]


def test_lora_is_kept_frozen_and_trained_on(model):
    lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(rank=2, alpha=4))
    before = randomise(model).language_model.model.layers[0].self_attn.q_proj.lora_B["default"].weight
    assert lora.set_modes(model).counts["decoder"][0] == 0
    lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(rank=2, alpha=4))
    after = model.language_model.model.layers[0].self_attn.q_proj.lora_B["default"].weight
    assert after is before
    assert after.requires_grad


def test_other_settings_than_those_of_the_layers_there_are_refused(model):
    lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(rank=2, alpha=4))
    with pytest.raises(E2LLMError, match="rank 2 and alpha 4, but rank 8 and alpha 4 were requested"):
        lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(rank=8, alpha=4))


def test_full_training_of_a_part_with_lora_is_refused_and_changes_nothing(model):
    lora.set_modes(model, decoder="lora")
    before = [p.requires_grad for p in model.parameters()]
    with pytest.raises(E2LLMError, match="merge them with merge_lora"):
        lora.set_modes(model, decoder="full")
    assert [p.requires_grad for p in model.parameters()] == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be 1 or more, got 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, got 1.0"),
        ({"target_modules": ("q_proj", "nothing")}, "this 'llama' model has no module named nothing"),
        ({"target_modules": ("lm_head",)}, "LoRA on lm_head is not supported"),
        ({"target_modules": ("embed_tokens",)}, "LoRA on model.embed_tokens is not supported"),
    ],
)
def test_settings_that_cannot_work_are_refused(model, settings, message):
    with pytest.raises(E2LLMError, match=message):
        lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(**settings))


@pytest.mark.parametrize("wrong", [{"encoder": "half"}, {"decoder": "yes"}, {"adapter": "lora"}])
def test_an_unknown_mode_is_refused(model, wrong):
    with pytest.raises(E2LLMError, match="mode must be frozen"):
        lora.set_modes(model, **wrong)


def test_an_unknown_model_type_asks_for_targets(model):
    model.language_model.config.model_type = "novel"
    with pytest.raises(E2LLMError, match="no LoRA target modules are known for model type 'novel'"):
        lora.set_modes(model, decoder="lora")
    settings = lora.LoraSettings(rank=2, target_modules=("q_proj",))
    assert lora.set_modes(model, decoder="lora", decoder_lora=settings).counts["decoder"][0] == 2 * 2 * (
        32 + 32
    )


def test_peft_reads_a_parts_deltas_onto_its_base_alone(model, tmp_path):
    peft = pytest.importorskip("peft")
    lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(rank=2, alpha=7))
    randomise(model).eval().save_pretrained(tmp_path)
    alone = peft.PeftModel.from_pretrained(tiny_decoder(), tmp_path / "lora/decoder")
    ids = torch.tensor([[1, 40, 50]])
    torch.testing.assert_close(alone(input_ids=ids).logits, model(input_ids=ids).logits)


def test_merging_into_quantized_weights_is_refused(model):
    lora.set_modes(model, decoder="lora")
    layer = model.language_model.model.layers[0].self_attn.q_proj
    layer.base_layer.weight = torch.nn.Parameter(torch.ones(32, 32, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(E2LLMError, match="q_proj is quantized; load the model with quantization_config=None"):
        lora.merge_lora(model)
