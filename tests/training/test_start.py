import pytest
import torch
import yaml
from small_parts import make_recipe, recipe_dict, weights

from e2llm.cli.main import entry_point
from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.build import build_model
from e2llm.training.overfit import overfit_recipe
from e2llm.training.recipe import load_recipe
from e2llm.training.recipes.start import holds_nf4
from e2llm.training.run import train

ADAPTER = {"kind": "mlp", "max_soft_tokens": 1}
CHUNKING = {"chunk_size_chars": 48, "kind": "code"}


@pytest.fixture
def start(tmp_path, encoder, decoder):
    """A checkpoint whose adapter and chunking are not the defaults; the decoder's weights are its own."""
    model = E2LLMForConditionalGeneration.from_parts(
        encoder, decoder, adapter="mlp", max_soft_tokens=1, adapter_num_heads=8, pooling="cls"
    )
    model.language_model.requires_grad_(True)
    model.save_pretrained(tmp_path / "start")
    E2LLMProcessor.from_parts(
        encoder, decoder, chunk_size_chars=48, overlap_chars=8, chunk_kind="code", num_soft_tokens=1
    ).save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


@pytest.fixture
def load(tmp_path, encoder, decoder):
    """Reads a recipe that states no parts, no adapter and no chunking but those that are given."""
    make_recipe(tmp_path, encoder, decoder)  # its data files

    def load_with(*settings, **sections):
        content = recipe_dict(tmp_path, encoder, decoder, objectives={"soft_tokens": [1]})
        for name in ("encoder", "decoder", "adapter", "chunking"):
            del content[name]
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump({**content, **sections}))
        return load_recipe(file, settings)

    return load_with


def test_what_a_recipe_leaves_out_is_as_in_the_checkpoint_of_init_from(load, start, encoder):
    (recipe,) = load(init_from=start)
    assert recipe.encoder.source == encoder  # the base that the checkpoint refers to
    assert recipe.decoder.source == start  # its weights are nowhere else
    assert recipe.adapter.model_dump(include=set(ADAPTER)) == ADAPTER
    assert recipe.chunking.model_dump() == CHUNKING


def test_such_a_run_trains_on_and_leaves_a_model_of_the_same_kind(load, start):
    (recipe,) = load(init_from=start, decoder={"mode": "full"})
    recipe.train.steps, recipe.train.learning_rate = 1, 1e-9
    result = train(recipe)
    before, after = weights(recipe.folder.parent / "start"), weights(result.folder)
    assert all(torch.allclose(value, after[name], atol=1e-7) for name, value in before.items())
    processor = E2LLMProcessor.from_pretrained(result.folder)
    assert (processor.chunk_size_chars, processor.overlap_chars, processor.chunk_kind) == (48, 8, "code")


def test_the_saved_recipe_is_the_same_without_the_checkpoint_being_asked(load, start):
    (recipe,) = load(init_from=start)
    file = recipe.folder.parent / "again.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump()))
    assert load_recipe(file) == [recipe]


def test_what_is_stated_stays_and_the_rest_of_its_section_is_the_checkpoints(load, start, decoder):
    (recipe,) = load(init_from=start, chunking={"chunk_size_chars": 96}, decoder={"source": decoder})
    assert recipe.chunking.model_dump() == {**CHUNKING, "chunk_size_chars": 96}
    assert (recipe.decoder.source, recipe.decoder.dtype) == (decoder, "float32")
    (recipe,) = load(init_from=start, decoder={"source": None, "dtype": "bfloat16"}, encoder={"mode": "lora"})
    assert (recipe.decoder.source, recipe.decoder.dtype) == (start, "bfloat16")
    assert recipe.encoder.mode == "lora"


def test_a_decoder_that_is_left_out_is_held_as_it_was_stored(load, encoder, decoder, tmp_path):
    folder = str(tmp_path / "half")
    model = E2LLMForConditionalGeneration.from_parts(
        encoder, decoder, adapter="attention", max_soft_tokens=2, decoder_kwargs={"dtype": "bfloat16"}
    )
    model.save_pretrained(folder)
    E2LLMProcessor.from_parts(encoder, decoder).save_pretrained(folder)
    (left_out,) = load(init_from=folder)
    (stated,) = load(init_from=folder, decoder={"source": decoder})
    dtypes = [build_model(item, [])[0].language_model.lm_head.weight.dtype for item in (left_out, stated)]
    assert dtypes == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(("kind", "holds"), [("nf4", True), ("fp4", False), (None, False)])
def test_a_decoder_that_was_saved_in_4_bits_is_held_in_4_bits_again(start, kind, holds):
    config = E2LLMForConditionalGeneration.from_pretrained(start).config
    if kind:
        config.text_config.quantization_config = {"load_in_4bit": True, "bnb_4bit_quant_type": kind}
    assert holds_nf4(config) is holds


@pytest.mark.parametrize("key", sorted(ADAPTER))
def test_another_adapter_than_that_of_the_checkpoint_is_refused_by_its_key(load, start, key):
    other = {"kind": "attention", "max_soft_tokens": 4}[key]
    with pytest.raises(
        E2LLMError, match=rf"recipe.yaml: adapter.{key} is .* which cannot change; leave adapter.{key}"
    ):
        load(init_from=start, adapter={key: other})
    assert load(init_from=start, adapter={key: ADAPTER[key]})


def test_no_decoder_is_refused_without_init_from(load):
    with pytest.raises(E2LLMError, match=r"can be left out only with init_from"):
        load()


def test_a_stage_takes_over_what_the_stage_before_states(load, start, encoder, decoder):
    parts = {"encoder": {"source": encoder}, "decoder": {"source": decoder, "dtype": "bfloat16"}}
    one = {"stage": "one", **parts, "adapter": ADAPTER, "chunking": CHUNKING}
    first, second, third = load(stages=[one, {"stage": "two"}, {"stage": "three", "init_from": start}])
    assert second.adapter.kind == "mlp"
    for section in ("encoder", "decoder", "adapter", "chunking"):
        assert getattr(second, section) == getattr(first, section)
    assert third.decoder.source == start


def test_a_stage_that_states_another_adapter_than_the_one_before_is_refused(load, encoder, decoder):
    parts = {"encoder": {"source": encoder}, "decoder": {"source": decoder}}
    stages = [{"stage": "one"}, {"stage": "two", "adapter": {"kind": "mlp"}}]
    with pytest.raises(E2LLMError, match=r"stage two: adapter.kind is 'mlp', but .*one/final"):
        load(**parts, stages=stages)


def test_a_checkpoint_that_is_not_there_is_refused_where_the_decoder_is_its(load, tmp_path):
    for name in (str(tmp_path / "nowhere"), "runs/nowhere/final"):
        with pytest.raises(
            E2LLMError, match=rf"comes from init_from, but {name} cannot be read \(there is no such"
        ):
            load(init_from=name)


def test_a_checkpoint_that_is_not_there_is_told_where_the_decoder_is_stated(load, decoder, capsys, tmp_path):
    (recipe,) = load(init_from=str(tmp_path / "nowhere"), decoder={"source": decoder})
    assert recipe.chunking.chunk_size_chars == 512
    assert "nowhere cannot be read (there is no such folder); what" in capsys.readouterr().err


def test_a_model_of_another_type_is_no_start(load, decoder):
    with pytest.raises(E2LLMError, match="has a model of type 'llama', not an E2LLM checkpoint"):
        load(init_from=decoder)


@pytest.mark.real
def test_the_embedded_model_needs_no_more_than_its_name(load):
    (recipe,) = load(init_from="smol", objectives={})
    assert recipe.encoder.source == "sentence-transformers/all-MiniLM-L6-v2"
    assert recipe.decoder.source == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (recipe.adapter.kind, recipe.adapter.finest_rate) == ("pooling", 2)


def test_records_are_learned_by_heart_from_the_checkpoint_where_the_stage_before_was_not_trained(load, start):
    _, second = load(stages=[{"stage": "one", "init_from": start}, {"stage": "two"}])
    assert overfit_recipe(second, second.folder / "records.jsonl", 2, 5).init_from == start


def test_a_whole_checkpoint_is_no_decoder(load, start, encoder):
    (recipe,) = load(decoder={"source": start}, encoder={"source": encoder})
    with pytest.raises(CheckpointError, match="is a whole E2LLM checkpoint; give its decoder"):
        build_model(recipe, [])


def test_the_command_trains_on_from_a_checkpoint(load, start, capsys):
    (recipe,) = load(init_from=start)
    file = recipe.folder.parent / "recipe.yaml"
    assert entry_point(["train", str(file), "--set", "train.steps=1"]) == 0
    assert "1 step; loss" in capsys.readouterr().out
