"""Checkpoints and parts that are refused."""

import json

import pytest
import torch
from checkpoint_folders import MANIFEST, edit_json, load, rewrite_weights, with_lora
from safetensors.torch import load_file, save_file
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
)

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor
from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.checkpoints import parts, reporting
from tiny_models import (
    assert_same_model,
    tiny_decoder,
    tiny_encoder,
    tiny_model,
)


def test_a_truncated_weight_file_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model.safetensors has [\d,]+ bytes instead of [\d,]+"):
        load(tmp_path)


@pytest.mark.parametrize("inside", [True, False])
def test_a_truncated_weight_file_is_refused_without_a_list_of_files_too(model, on_bases, tmp_path, inside):
    (model if inside else on_bases).save_pretrained(tmp_path / "saved")
    edit_json(tmp_path / "saved" / MANIFEST, files={})
    weights = tmp_path / "saved/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load(tmp_path / "saved")


def test_a_missing_weight_file_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-\d+.safetensors is missing"):
        load(tmp_path)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["adapter.queries", "adapter.output_norm.bias"])
def test_a_missing_tensor_is_refused(model, on_bases, tmp_path, inside, name):
    (model if inside else on_bases).save_pretrained(tmp_path / "saved")
    rewrite_weights(tmp_path / "saved", lambda state: state.pop(name))
    with pytest.raises(CheckpointError, match=f"missing.*{name}"):
        load(tmp_path / "saved")


@pytest.mark.parametrize("inside", [True, False])
def test_a_tensor_of_another_shape_is_refused(model, on_bases, tmp_path, inside):
    (model if inside else on_bases).save_pretrained(tmp_path / "saved")
    rewrite_weights(tmp_path / "saved", lambda state: state.update({"adapter.queries": torch.zeros(3, 32)}))
    with pytest.raises(CheckpointError, match=r"shape.*adapter.queries"):
        load(tmp_path / "saved")


@pytest.mark.parametrize("inside", [True, False])
def test_an_unknown_tensor_is_refused(model, on_bases, tmp_path, inside):
    (model if inside else on_bases).save_pretrained(tmp_path / "saved")
    rewrite_weights(tmp_path / "saved", lambda state: state.update({"adapter.extra": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"unknown.*adapter.extra"):
        load(tmp_path / "saved")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_base_with_other_weights_is_refused(on_bases, bases, tmp_path, part):
    on_bases.save_pretrained(tmp_path / "saved")
    torch.manual_seed(8)
    (tiny_encoder if part == "encoder" else tiny_decoder)(initializer_range=0.5).save_pretrained(
        bases[part == "decoder"]
    )
    with pytest.raises(
        CheckpointError, match=rf"made with .*{part} of SHA-256 .* get that version of the base"
    ):
        load(tmp_path / "saved")


def test_a_base_that_moved_is_asked_for_and_can_be_given(on_bases, bases, tmp_path, inputs):
    on_bases.save_pretrained(tmp_path / "saved")
    bases[1].rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"its decoder, .* pass its folder or hub id as decoder="):
        load(tmp_path / "saved")
    loaded = load(tmp_path / "saved", decoder=str(tmp_path / "elsewhere"))
    assert_same_model(on_bases, loaded, inputs)
    assert loaded.part_sources["decoder"].name == str(tmp_path / "elsewhere")


def test_a_place_for_a_part_that_is_inside_is_refused(model, bases, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(E2LLMError, match="the checkpoint contains its decoder; leave decoder= out"):
        load(tmp_path / "saved", decoder=str(bases[1]))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_pickled_weights_are_refused(bases, part):
    folder = bases[part == "decoder"]
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no safetensors weights found, and other formats cannot"):
        parts.load_part(part, str(folder))


def test_a_pickled_checkpoint_of_ours_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    for files in ({"model.safetensors": 1}, {}):
        edit_json(tmp_path / MANIFEST, files=files)
        with pytest.raises(CheckpointError):
            load(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(CheckpointError):
        load(tmp_path)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_code_in_a_base_is_refused(bases, part):
    folder = bases[part == "decoder"]
    edit_json(
        folder / "config.json", auto_map={"AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    )
    (folder / "evil.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(CheckpointError, match="auto_map"):
        parts.load_part(part, str(folder))


def test_code_in_a_checkpoint_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (tmp_path / "evil.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(CheckpointError, match="auto_map"):
        load(tmp_path)


@pytest.mark.parametrize("part", ["encoder_config", "text_config"])
def test_code_for_a_part_of_a_checkpoint_is_refused(model, tmp_path, part):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    edit_json(tmp_path / "config.json", **{part: config[part] | {"auto_map": {"AutoModel": "evil.Model"}}})
    with pytest.raises(CheckpointError, match="auto_map"):
        load(tmp_path)


def test_trusting_remote_code_is_refused_everywhere(bases, tmp_path):
    for call in (
        lambda: load(tmp_path, trust_remote_code=True),
        lambda: parts.load_part("encoder", str(bases[0]), {"trust_remote_code": True}),
        lambda: E2LLMProcessor.from_pretrained(tmp_path, trust_remote_code=True),
    ):
        with pytest.raises(E2LLMError, match="trust_remote_code=True is refused"):
            call()


def test_a_base_that_lacks_weights_is_refused(bases):
    state = load_file(bases[1] / "model.safetensors")
    state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, bases[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the weights lack model.layers.1.mlp.up_proj.weight"):
        parts.load_part("decoder", str(bases[1]))


def test_an_encoder_in_the_decoders_place_is_refused(bases):
    with pytest.raises(CheckpointError, match="decoder"):
        parts.load_part("decoder", str(bases[0]))
    with pytest.raises(E2LLMError, match="the decoder must be a causal LM, got BertModel"):
        tiny_model("bert", tiny_encoder())
    with pytest.raises(E2LLMError, match="the encoder must be a model without a head, got LlamaForCausalLM"):
        tiny_model(tiny_decoder(), "llama")
    with pytest.raises(
        E2LLMError, match="encoder must be a hub id, a folder or a transformers model, got dict"
    ):
        E2LLMForConditionalGeneration.from_parts({}, tiny_decoder(), chunk_token_id=3)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_encoder_decoder_model_is_refused_by_name_too(part, tmp_path):
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"is an encoder-decoder model \(t5\)"):
        parts.load_part(part, str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "./folder"])
def test_a_part_in_a_folder_that_is_not_there_is_refused_as_such(name):
    with pytest.raises(CheckpointError, match=f"{name}: no such folder"):
        parts.load_part("encoder", name)


def test_an_unknown_dtype_is_refused(on_bases, tmp_path):
    on_bases.save_pretrained(tmp_path / "saved")
    with pytest.raises(E2LLMError, match="dtype='float3' is unknown; use auto, float32"):
        load(tmp_path / "saved", dtype="float3")


def test_a_model_of_another_kind_is_refused(bases):
    with pytest.raises(CheckpointError, match="a model of type 'llama', not an E2LLM checkpoint"):
        load(bases[1])


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_folder_without_a_configuration_is_told_as_such(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="not an E2LLM checkpoint: config"):
        load(tmp_path)


def test_a_folder_or_a_hub_id_that_is_not_there_is_refused(tmp_path):
    for name in (str(tmp_path / "none"), "nobody/nothing"):
        with pytest.raises(CheckpointError, match=name):
            load(name)


@pytest.mark.parametrize(
    "changes",
    [{"format": 99}, {"parts": {}}, {"parts": 3}, {"files": {"../x.safetensors": 1}}, {"files": {"/x": 1}}],
)
def test_a_manifest_that_cannot_be_right_is_refused(model, tmp_path, changes):
    model.save_pretrained(tmp_path)
    edit_json(tmp_path / MANIFEST, **changes)
    with pytest.raises(CheckpointError, match=r"manifest"):
        load(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="not a valid manifest"):
        load(tmp_path)


@pytest.mark.parametrize("edit", ["pop", "shape", "extra"])
def test_lora_tensors_that_do_not_match_are_refused(on_bases, tmp_path, edit):
    with_lora(on_bases).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved/lora/decoder/adapter_model.safetensors"
    state = load_file(file)
    name = sorted(state)[0]
    if edit == "pop":
        state.pop(name)
    else:
        state[name if edit == "shape" else "base_model.model.other.lora_A.weight"] = torch.zeros(2, 2)
    save_file(state, file)
    edit_json(tmp_path / "saved" / MANIFEST, files={})
    with pytest.raises(CheckpointError, match="LoRA tensors do not match the model"):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("one\ntwo", "one"),
        ("Made from one of:\n (1) a,\n (2) b.\n\nMore", "Made from one of: (1) a, (2) b."),
        ("", "ValueError"),
    ],
)
def test_an_error_is_told_by_its_first_line_unless_that_ends_before_what_it_announces(text, told):
    assert reporting.first_line(ValueError(text)) == told
