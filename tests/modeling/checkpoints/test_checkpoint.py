"""Saving and loading: what is stored, and that it comes back."""

import json
import shutil

import pytest
import torch
from checkpoint_folders import MANIFEST, change, load, stored_names, with_lora
from transformers import (
    AutoModelForCausalLM,
)

from e2llm import E2LLMForConditionalGeneration
from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from tiny_models import (
    assert_same_model,
    tiny_decoder,
    tiny_decoder_tokenizer,
    tiny_model,
)


def test_parts_given_by_name_are_referred_to_and_not_copied(on_bases, bases, tmp_path, inputs):
    on_bases.save_pretrained(tmp_path / "saved")
    assert all(name.startswith("adapter.") for name in stored_names(tmp_path / "saved"))
    manifest = json.loads((tmp_path / "saved" / MANIFEST).read_text())
    assert [entry["saved_here"] for entry in manifest["parts"].values()] == [False, False]
    assert manifest["parts"]["decoder"]["name"] == str(bases[1])
    assert_same_model(on_bases, load(tmp_path / "saved"), inputs)


def test_parts_given_as_instances_are_part_of_the_checkpoint(model, tmp_path, inputs):
    model.save_pretrained(tmp_path)
    assert any(name.startswith("chunk_encoder.") for name in stored_names(tmp_path))
    assert_same_model(model, AutoModelForCausalLM.from_pretrained(tmp_path), inputs)


def test_one_part_may_be_referred_to_and_the_other_stored(bases, tmp_path, inputs):
    model = E2LLMForConditionalGeneration.from_parts(
        bases[0], tiny_decoder("qwen2"), decoder_tokenizer=tiny_decoder_tokenizer(), max_soft_tokens=4
    )
    model.save_pretrained(tmp_path / "saved")
    assert not any(name.startswith("chunk_encoder.") for name in stored_names(tmp_path / "saved"))
    assert any(name.startswith("language_model.") for name in stored_names(tmp_path / "saved"))
    assert_same_model(model, load(tmp_path / "saved"), inputs)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_that_trained_in_full_is_stored(on_bases, tmp_path, inputs, part):
    lora.set_modes(on_bases, **{part: "full"})
    change(on_bases)
    lora.set_modes(on_bases)  # frozen again: it has no unchanged base all the same
    on_bases.save_pretrained(tmp_path / "saved")
    assert_same_model(on_bases, load(tmp_path / "saved"), inputs)


def test_a_part_made_trainable_by_hand_is_stored(on_bases, tmp_path, inputs):
    on_bases.language_model.requires_grad_(True)
    change(on_bases)
    on_bases.save_pretrained(tmp_path / "saved")
    assert_same_model(on_bases, load(tmp_path / "saved"), inputs)


def test_a_loaded_model_saves_as_little_as_the_first(on_bases, tmp_path, inputs):
    with_lora(on_bases).save_pretrained(tmp_path / "first")
    load(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert stored_names(tmp_path / "second") == stored_names(tmp_path / "first")
    assert_same_model(on_bases, load(tmp_path / "second"), inputs)


def test_lora_deltas_are_stored_beside_the_adapter(on_bases, tmp_path, inputs):
    with_lora(on_bases).save_pretrained(tmp_path / "saved")
    assert all(name.startswith("adapter.") for name in stored_names(tmp_path / "saved"))
    assert (tmp_path / "saved/lora/encoder/adapter_model.safetensors").is_file()
    loaded = load(tmp_path / "saved")
    assert_same_model(on_bases, loaded, inputs)
    assert loaded.language_model.peft_config["default"].r == 3


def test_a_self_contained_checkpoint_needs_no_base(on_bases, bases, tmp_path, inputs):
    with_lora(on_bases).save_pretrained(tmp_path / "saved", self_contained=True)
    for base in bases:
        shutil.rmtree(base)
    loaded = load(tmp_path / "saved")
    assert not lora.has_lora(loaded)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, on_bases(**inputs).logits, atol=2e-4, rtol=1e-3)
    assert lora.has_lora(on_bases)


@pytest.mark.parametrize("decoder", ["qwen2", "gpt2", "opt", "gemma2"])
def test_tied_weights_are_stored_once_and_tied_again(decoder, tmp_path, inputs):
    model = tiny_model("bert", decoder)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    embeddings, head = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    assert embeddings.data_ptr() == head.data_ptr()
    assert not {"language_model.lm_head.weight"} & stored_names(tmp_path)
    assert_same_model(model, loaded, inputs)


def test_tied_weights_of_a_trained_decoder_are_tied_again_beside_a_base(bases, tmp_path, inputs):
    decoder = tiny_decoder("qwen2")
    model = E2LLMForConditionalGeneration.from_parts(
        bases[0], decoder, decoder_tokenizer=tiny_decoder_tokenizer(), max_soft_tokens=4
    )
    model.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert loaded.get_input_embeddings().weight.data_ptr() == loaded.get_output_embeddings().weight.data_ptr()
    assert_same_model(model, loaded, inputs)


def test_a_placeholder_beyond_the_embeddings_gives_the_same_logits_after_loading(bases, tmp_path, inputs):
    tiny_decoder(vocab_size=319).save_pretrained(bases[1])
    model = E2LLMForConditionalGeneration.from_parts(*bases, max_soft_tokens=4)
    assert model.config.chunk_token_id == 319
    assert model.get_input_embeddings().num_embeddings == 320
    model.save_pretrained(tmp_path / "saved")
    assert_same_model(model, load(tmp_path / "saved"), inputs)
    assert (model(**inputs).logits[..., 319] == 0).all()


@pytest.mark.parametrize("inside", [True, False])
def test_generation_settings_are_stored(model, on_bases, tmp_path, inside):
    saved = model if inside else on_bases
    saved.generation_config.eos_token_id = [2, 7]
    saved.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert loaded.generation_config.eos_token_id == [2, 7]


def test_a_loaded_model_has_frozen_parts_and_a_trainable_adapter(on_bases, model, tmp_path):
    on_bases.save_pretrained(tmp_path / "bases")
    model.save_pretrained(tmp_path / "inside")
    with_lora(model).save_pretrained(tmp_path / "lora")
    for folder in ("bases", "inside"):
        counts = lora.report_trainable(load(tmp_path / folder)).counts
        assert (counts["encoder"][0], counts["decoder"][0]) == (0, 0)
        assert counts["adapter"][0] == counts["adapter"][1] > 0
    trained = {name for name, p in load(tmp_path / "lora").named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}


def test_dtypes_survive(tmp_path, bases, inputs):
    options = {"encoder_kwargs": {"dtype": torch.bfloat16}, "decoder_kwargs": {"dtype": torch.bfloat16}}
    model = E2LLMForConditionalGeneration.from_parts(*bases, max_soft_tokens=4, **options)
    model.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load(tmp_path / "saved", dtype=torch.float32).parameters()} == {torch.float32}
    rotary = loaded.language_model.model.rotary_emb.inv_freq
    assert torch.equal(rotary, model.language_model.model.rotary_emb.inv_freq)
    assert rotary.dtype == torch.float32


def test_parts_of_different_dtypes_lose_nothing(tmp_path, bases, inputs):
    model = E2LLMForConditionalGeneration.from_parts(
        *bases, max_soft_tokens=4, decoder_kwargs={"dtype": torch.bfloat16}
    )
    model.save_pretrained(tmp_path / "saved")
    assert_same_model(model, load(tmp_path / "saved"), inputs)
    model.save_pretrained(tmp_path / "inside", self_contained=True)
    loaded = load(tmp_path / "inside")
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.float())


@pytest.mark.parametrize("inside", [True, False])
def test_the_attention_implementation_can_be_chosen_per_part(model, on_bases, tmp_path, inside):
    (model if inside else on_bases).save_pretrained(tmp_path / "saved")
    wanted = {"encoder_config": "eager", "text_config": "sdpa"}
    loaded = load(tmp_path / "saved", attn_implementation=wanted)
    assert loaded.chunk_encoder.config._attn_implementation == "eager"
    assert loaded.language_model.config._attn_implementation == "sdpa"


def test_the_state_dict_of_a_trainer_is_what_gets_stored(model, tmp_path):
    gathered = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=gathered)
    assert torch.equal(load(tmp_path).adapter.queries, model.adapter.queries + 1)


def test_only_the_main_process_writes(model, tmp_path):
    model.save_pretrained(tmp_path / "saved", is_main_process=False)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "option", [{"push_to_hub": True}, {"variant": "fp16"}, {"safe_serialization": False}]
)
def test_save_options_without_effect_are_refused(model, tmp_path, option):
    with pytest.raises(E2LLMError, match=f"save_pretrained does not support {next(iter(option))}"):
        model.save_pretrained(tmp_path, **option)


def test_load_options_without_effect_are_refused(on_bases, tmp_path):
    on_bases.save_pretrained(tmp_path / "saved")
    with pytest.raises(E2LLMError, match="cannot be loaded with max_memory"):
        load(tmp_path / "saved", max_memory={0: "1GB"})
