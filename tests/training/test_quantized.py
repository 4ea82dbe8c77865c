"""QLoRA: a decoder in 4 bits. bitsandbytes quantizes on CPUs, too: all but the kernels of CUDA is tested."""

import importlib.util

import pytest
import torch
from small_parts import make_recipe, save_decoder, weights

from e2llm.cli.main import entry_point
from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints import quantization
from e2llm.modeling.checkpoints.parts import ensure_embedding_row, load_part
from e2llm.modeling.lora import report_trainable, set_modes
from e2llm.modeling.model import E2LLMForConditionalGeneration, embedding_scale
from e2llm.training import build
from e2llm.training.dry_run import memory_of
from e2llm.training.recipe import validate
from e2llm.training.run import finish, make_trainer, train

QLORA = {"mode": "lora", "quantization": "nf4", "dtype": "bfloat16"}


@pytest.fixture(scope="module", autouse=True)
def _bitsandbytes():
    pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def wide_decoder(tmp_path_factory):
    """A decoder whose matrices have blocks of 64 values."""
    return save_decoder(tmp_path_factory.mktemp("wide"), hidden_size=64, intermediate_size=128)


def qlora(folder, encoder, decoder):
    steps = {"steps": 2, "evaluate_every_steps": 1, "save_every_steps": 1, "gradient_checkpointing": True}
    return make_recipe(folder, encoder, decoder, decoder=QLORA, train=steps)


@pytest.fixture
def recipe(tmp_path, encoder, wide_decoder):
    return qlora(tmp_path, encoder, wide_decoder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder, wide_decoder):
    """Folder of a trained model; left as it is."""
    return train(qlora(tmp_path_factory.mktemp("trained"), encoder, wide_decoder)).folder


def base_layer(model):
    return model.language_model.model.layers[0].self_attn.q_proj.base_layer


def test_it_trains_saves_and_loads_in_4_bits(recipe):
    trainer = make_trainer(recipe)
    model = trainer.model
    assert type(base_layer(model)).__name__ == "Linear4bit"
    packed = base_layer(model).weight.detach().clone()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    trainer.train()
    result = finish(recipe, trainer)
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point():
            assert torch.equal(tensor, before[name]) != tensor.requires_grad, name
            assert (tensor.dtype == torch.float32) == (tensor.requires_grad or "chunk_encoder" in name)
    loaded = E2LLMForConditionalGeneration.from_pretrained(result.folder)
    assert torch.equal(base_layer(loaded).weight, packed)
    for name, tensor in loaded.named_parameters():
        if tensor.is_floating_point():
            assert torch.equal(tensor, model.get_parameter(name)), name
            assert tensor.dtype == model.get_parameter(name).dtype, name
    stored = weights(result.folder)
    assert not any("base_layer" in name or "embed_tokens" in name for name in stored)


def test_a_checkpoint_remembers_and_can_be_loaded_without(trained, tmp_path):
    plain = E2LLMForConditionalGeneration.from_pretrained(trained, quantization_config=None)
    assert base_layer(plain).weight.is_floating_point()
    plain.save_pretrained(tmp_path / "plain")
    again = E2LLMForConditionalGeneration.from_pretrained(tmp_path / "plain")
    assert base_layer(again).weight.is_floating_point()


def test_the_export_command_merges_into_weights_in_full(trained, tmp_path):
    assert entry_point(["export", str(trained), str(tmp_path / "out"), "--merged"]) == 0
    stored = weights(tmp_path / "out")
    assert not any("lora_" in name or "absmax" in name for name in stored)
    kinds = {tensor.dtype for name, tensor in stored.items() if name.endswith("self_attn.q_proj.weight")}
    assert kinds == {torch.bfloat16}


def test_the_next_stage_goes_on_in_4_bits_from_what_was_stored(recipe, trained):
    after = recipe.model_copy(update={"init_from": str(trained), "stage": "two"})
    model, _ = build.load_start(after)
    assert type(base_layer(model)).__name__ == "Linear4bit"
    stored = weights(trained)
    assert torch.equal(model.adapter.key_projection.weight, stored["adapter.key_projection.weight"])
    assert set(train(after).last_losses) <= {"understanding_loss", "reasoning_loss"}


def test_a_decoder_that_lies_in_the_checkpoint_cannot_be_quantized(recipe_of):
    folder = train(recipe_of()).folder
    recipe = recipe_of(decoder={**QLORA, "mode": "lora"}).model_copy(update={"init_from": str(folder)})
    with pytest.raises(E2LLMError, match="contains the decoder's weights"):
        build.load_start(recipe)


def test_its_embeddings_are_measured_and_grow_as_those_of_any_other(wide_decoder):
    config = quantization.nf4_config()
    decoder, _ = load_part("decoder", wide_decoder, {"quantization_config": config, "dtype": torch.bfloat16})
    plain, _ = load_part("decoder", wide_decoder, {"dtype": torch.bfloat16})
    assert embedding_scale(decoder) == embedding_scale(plain)
    ensure_embedding_row(decoder, 325)
    assert decoder.get_input_embeddings().weight.shape == (326, 64)
    assert decoder(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 326)


def test_the_report_counts_weights_and_not_bytes(recipe, encoder):
    model, _ = build.join_parts(recipe, [])
    plain, _ = build.join_parts(
        recipe.model_copy(update={"decoder": recipe.decoder.model_copy(update={"quantization": "none"})}), []
    )
    assert report_trainable(model).counts["decoder"] == report_trainable(plain).counts["decoder"]
    with pytest.raises(E2LLMError, match="the decoder is quantized, and 4-bit weights cannot train"):
        set_modes(model, decoder="full")


def test_its_bytes_on_paper_are_those_of_the_real_weights(recipe):
    model, _ = build.join_parts(recipe, [])
    build.set_trainable(model, recipe)
    total = 0
    for parameter in model.language_model.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            parts = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            total += sum(part.nbytes for part in parts)
    (row,) = (row for row in memory_of(recipe) if row.part == "decoder")
    assert row.weight_bytes == pytest.approx(total, rel=0.1)


def test_weights_in_4_bits_cannot_train_themselves():
    decoder = {"source": "x", "mode": "full", "quantization": "nf4"}
    content = {"name": "x", "decoder": decoder, "data": {"train": [{"path": "x"}]}}
    with pytest.raises(E2LLMError, match=r"nf4 needs decoder\.mode lora or frozen"):
        validate(content, "test")


def test_without_bitsandbytes_the_error_names_the_extra(recipe, trained, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        quantization.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "bitsandbytes" else found(name, *more),
    )
    with pytest.raises(E2LLMError, match=r"nf4 needs bitsandbytes: pip install 'e2llm\[qlora\]'"):
        build.join_parts(recipe, [])
    with pytest.raises(E2LLMError, match=r"e2llm\[qlora\]', or load it with quantization_config=None"):
        E2LLMForConditionalGeneration.from_pretrained(trained)


def test_on_a_gpu_each_process_quantizes_onto_its_own(recipe, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    options = build.decoder_options(recipe.decoder)
    assert options["device_map"] == {"": 3}
    config = options["quantization_config"]
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
