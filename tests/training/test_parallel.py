"""`train.parallel` in the words of transformers, accelerate and DeepSpeed."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from e2llm.errors import E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.training.arguments import training_arguments
from e2llm.training.parallel import (
    as_saved,
    deepspeed_config,
    flatten_scalars,
    fsdp_config,
    keep_losses_in_float32,
    layer_class_names,
    parallel_arguments,
)


@pytest.fixture
def launched(monkeypatch):
    """As torchrun would start one process."""
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def model(encoder, decoder):
    """A tiny model."""
    return E2LLMForConditionalGeneration.from_parts(encoder, decoder, adapter="attention", max_soft_tokens=2)


@pytest.mark.parametrize(
    ("parallel", "hint"), [("fsdp2", "torchrun"), ("zero2", "torchrun"), ("zero3", "torchrun")]
)
def test_sharding_in_a_process_alone_is_refused(parallel, hint, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(E2LLMError, match=hint):
        parallel_arguments(parallel, ["BertLayer"])


def test_fsdp2_on_a_cpu_is_refused_and_not_silently_ddp(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(E2LLMError, match="needs a GPU, but there is none"):
        parallel_arguments("fsdp2", ["BertLayer"])


def test_a_missing_deepspeed_is_said_with_its_extra(launched, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(E2LLMError, match=r"pip install 'e2llm\[deepspeed\]'"):
        parallel_arguments("zero3", [])


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_shards_by_itself_is_refused(launched, name, monkeypatch):
    monkeypatch.setenv(name, "true")
    with pytest.raises(E2LLMError, match=r"recipe says train\.parallel: ddp"):
        parallel_arguments("ddp", [])


def test_ddp_needs_no_settings(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert parallel_arguments("ddp", []) == {}


@pytest.mark.parametrize("parallel", ["fsdp2", "zero3"])
def test_sharded_weights_refuse_what_makes_passes_unequal(recipe_of, parallel):
    with pytest.raises(E2LLMError, match="unchecked_tokens"):
        recipe_of(encoder={"mode": "lora", "unchecked_tokens": 100}, train={"parallel": parallel})


def test_weights_in_4_bits_are_not_cut_into_shares(recipe_of):
    with pytest.raises(E2LLMError, match=r"decoder\.quantization: nf4 does not work with"):
        recipe_of(decoder={"mode": "lora", "quantization": "nf4"}, train={"parallel": "zero3"})


def test_layer_classes_are_those_of_both_parts(model):
    assert {"BertLayer", "LlamaDecoderLayer"} <= set(layer_class_names(model))


def test_a_part_that_names_no_layers_is_cut_at_its_first_list(model):
    model.chunk_encoder._no_split_modules = None
    assert layer_class_names(model) == ["BertLayer", "LlamaDecoderLayer"]


def test_transformers_and_accelerate_take_the_fsdp_settings(model, tmp_path):
    from accelerate.utils import FullyShardedDataParallelPlugin

    names = layer_class_names(model)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, bf16=True, fsdp=True, fsdp_config=fsdp_config(names)
    )
    keep_losses_in_float32(arguments)
    plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    plugin.set_mixed_precision("bf16")
    plugin.set_auto_wrap_policy(model)
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.transformer_cls_names_to_wrap == names
    assert plugin.cpu_ram_efficient_loading is False
    policy = plugin.mixed_precision_policy
    dtypes = (policy.param_dtype, policy.reduce_dtype, policy.output_dtype)
    assert dtypes == (torch.bfloat16, torch.float32, None)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_takes_its_settings_once_the_trainer_has_filled_them_in(stage, recipe_of, model):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig, unset_hf_deepspeed_config

    recipe = recipe_of(train={"gradient_accumulation": 3})
    arguments = copy.copy(training_arguments(recipe, None))
    filled = HfTrainerDeepSpeedConfig(deepspeed_config(stage))
    try:
        filled.trainer_config_process(arguments)
        filled.trainer_config_finalize(arguments, model, num_training_steps=4)
    finally:
        unset_hf_deepspeed_config()
    assert filled.mismatches == []
    assert "auto" not in str(filled.config)
    DeepSpeedZeroConfig(**filled.config["zero_optimization"])  # refuses names that it does not know
    whole = DeepSpeedConfig(filled.config)
    assert whole.zero_optimization_stage == stage
    assert (whole.gradient_accumulation_steps, whole.gradient_clipping) == (3, 1.0)
    assert whole.zero_config.gather_16bit_weights_on_model_save is (stage == 3)


def test_single_numbers_are_flat_while_training_and_saved_as_they_were(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = flatten_scalars(model)
    assert names == {"adapter.scale"}
    assert model.adapter.scale.shape == (1,)
    after = as_saved(model, model.state_dict(), names)
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_tied_weights_are_saved_once():
    model = SimpleNamespace(all_tied_weights_keys={"head.weight": "embed.weight"})
    state = {"embed.weight": torch.ones(2), "head.weight": torch.ones(2)}
    assert set(as_saved(model, state)) == {"embed.weight"}


def test_generation_asks_no_other_process(model):
    def agree(count):
        raise AssertionError("generation asked for agreement")

    model.agree_on_passes = agree
    ids = torch.tensor([[5, model.config.chunk_token_id, 6]])
    chunk = torch.tensor([[2, 9, 3]])
    model.generate(ids, chunk_input_ids=chunk, chunk_attention_mask=torch.ones_like(chunk), max_new_tokens=1)
    assert model.agree_on_passes is agree


@pytest.mark.parametrize("training", [True, False])
def test_missing_passes_change_nothing(model, training):
    chunks = torch.tensor([[2, 9, 3], [2, 8, 3]])
    mask = torch.ones_like(chunks)
    model.train(training)
    expected = model.encode_chunks(chunks, mask)
    model.agree_on_passes = lambda count: count + 2
    soft_tokens = model.encode_chunks(chunks, mask)
    assert torch.equal(soft_tokens, expected)
    ours, theirs = (
        torch.autograd.grad(item.square().sum(), model.adapter.queries)[0] for item in (soft_tokens, expected)
    )
    assert torch.equal(ours, theirs)
