"""Saving and loading: what is stored, what is refused, and what a crash leaves."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor
from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling import checkpoint_writing, lora, parts, publication
from tiny_models import (
    TEXT,
    assert_same_model,
    tiny_decoder,
    tiny_decoder_tokenizer,
    tiny_encoder,
    tiny_encoder_tokenizer,
    tiny_model,
    tiny_processor,
)

MANIFEST = "e2llm_manifest.json"


@pytest.fixture
def bases(tmp_path):
    """Folders of an encoder and a decoder, as a user has them on the disk."""
    tiny_encoder().save_pretrained(tmp_path / "encoder")
    tiny_encoder_tokenizer().save_pretrained(tmp_path / "encoder")
    tiny_decoder().save_pretrained(tmp_path / "decoder")
    tiny_decoder_tokenizer().save_pretrained(tmp_path / "decoder")
    return tmp_path / "encoder", tmp_path / "decoder"


@pytest.fixture
def on_bases(bases):
    torch.manual_seed(3)
    return E2LLMForConditionalGeneration.from_parts(*bases, max_soft_tokens=4)


def load(folder, **kwargs):
    return E2LLMForConditionalGeneration.from_pretrained(folder, **kwargs)


def change(model, seed=0):
    """Another model of the same kind: every trainable tensor moved."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model


def with_lora(model):
    lora.set_modes(model, encoder="lora", decoder="lora", decoder_lora=lora.LoraSettings(rank=3, alpha=5))
    return change(model)


def stored_names(folder):
    return {name for file in folder.glob("model*.safetensors") for name in load_file(file)}


def edit_json(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


# --- what is stored ---------------------------------------------------------------------------------------


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
    with pytest.raises(E2LLMError, match="does not support max_memory"):
        load(tmp_path / "saved", max_memory={0: "1GB"})


def test_reset_adapter_changes_the_adapter_and_nothing_else(model, tmp_path):
    with_lora(model).save_pretrained(tmp_path)
    loaded = load(tmp_path)
    before = {name: p.clone() for name, p in loaded.named_parameters()}
    loaded.reset_adapter()
    changed = {name for name, p in loaded.named_parameters() if not torch.equal(p, before[name])}
    assert "adapter.queries" in changed
    assert all(name.startswith("adapter.") for name in changed)
    assert loaded.adapter.scale.item() == pytest.approx(loaded.config.soft_token_scale)


# --- shards and crashes -----------------------------------------------------------------------------------


def test_a_sharded_checkpoint_has_an_index_and_loads(model, tmp_path, inputs):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == stored_names(tmp_path)
    assert_same_model(model, load(tmp_path), inputs)


def test_files_of_a_former_checkpoint_go_and_others_stay(model, tmp_path, inputs):
    with_lora(model).save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "optimizer.pt").write_text("a trainer's")
    lora.merge_lora(model)
    model.save_pretrained(tmp_path)
    names = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {
        "config.json",
        "generation_config.json",
        MANIFEST,
        "model.safetensors",
        "notes.txt",
        "optimizer.pt",
    }
    assert_same_model(model, load(tmp_path), inputs)


def test_an_error_while_writing_leaves_the_former_checkpoint(model, tmp_path, inputs, monkeypatch):
    model.save_pretrained(tmp_path)
    before = sorted(file.name for file in tmp_path.iterdir())

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint_writing, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        change(tiny_model(), seed=9).save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == before
    assert_same_model(model, load(tmp_path), inputs)


class Killed(BaseException):
    """The process ends here; nothing after this moment happens."""


def kill_at(monkeypatch, moment):
    """Let the process die at the given file operation, counted from 1."""
    count, rmtree = 0, shutil.rmtree

    def counted(operation):
        def run(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= moment:
                if operation is rmtree:  # it dies half way
                    os.remove(next(file for file in sorted(Path(args[0]).rglob("*")) if file.is_file()))
                raise Killed
            return operation(*args, **kwargs)

        return run

    operations = ((os, "rename"), (os, "replace"), (os, "link"), (shutil, "rmtree"), (Path, "unlink"))
    for module, name in operations:
        monkeypatch.setattr(module, name, counted(getattr(module, name)))


def test_a_crash_at_any_moment_leaves_the_former_or_the_new_checkpoint(tmp_path, monkeypatch, inputs):
    former, new = tiny_model(max_soft_tokens=4), change(tiny_model(max_soft_tokens=6), seed=9)
    folder, outcomes = tmp_path / "saved", []
    for moment in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        former.save_pretrained(folder, max_shard_size="100KB")
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                new.save_pretrained(folder)
                break
            except Killed:
                pass
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        outcomes.append("new" if loaded.config.max_soft_tokens == 6 else "former")
        assert_same_model(new if outcomes[-1] == "new" else former, loaded, inputs)
        if moment % 3:
            continue
        new.save_pretrained(folder)
        assert_same_model(new, load(folder), inputs)
        assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    assert set(outcomes) == {"former", "new"}
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > 8


def test_an_interrupted_save_is_finished_before_the_next_one(tmp_path):
    complete = tmp_path / publication.COMPLETE_NAME
    complete.mkdir()
    for name in ("placed.txt", "waiting.txt"):
        (complete / name).write_text(name)
    os.link(complete / "placed.txt", tmp_path / "placed.txt")
    with publication.publishing(tmp_path, owned=()) as staging:
        (staging / "new.txt").write_text("new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.txt", "placed.txt", "waiting.txt"]


def test_saving_works_on_a_file_system_without_hard_links(model, tmp_path, monkeypatch, inputs):
    def no_links(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    model.save_pretrained(tmp_path)
    assert_same_model(model, load(tmp_path), inputs)


# --- what is refused --------------------------------------------------------------------------------------


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


def rewrite_weights(folder, edit):
    """Change the tensors of a checkpoint, and the manifest's list of files with them."""
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / MANIFEST, files={})


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
    with pytest.raises(CheckpointError, match=r"its decoder, .* say where it is with decoder="):
        load(tmp_path / "saved")
    loaded = load(tmp_path / "saved", decoder=str(tmp_path / "elsewhere"))
    assert_same_model(on_bases, loaded, inputs)
    assert loaded.part_sources["decoder"].name == str(tmp_path / "elsewhere")


def test_a_place_for_a_part_that_is_inside_is_refused(model, bases, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(E2LLMError, match="the decoder is in the checkpoint itself; leave decoder= out"):
        load(tmp_path / "saved", decoder=str(bases[1]))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_pickled_weights_are_refused(bases, part):
    folder = bases[part == "decoder"]
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no safetensors weights found; other formats are not read"):
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
    with pytest.raises(CheckpointError, match=f"encoder {name}: there is no such folder"):
        parts.load_part("encoder", name)


def test_an_unknown_dtype_is_refused(on_bases, tmp_path):
    on_bases.save_pretrained(tmp_path / "saved")
    with pytest.raises(E2LLMError, match="dtype='float3' is unknown; use auto, float32"):
        load(tmp_path / "saved", dtype="float3")


def test_a_model_of_another_kind_is_refused(bases):
    with pytest.raises(CheckpointError, match="a model of type 'llama', not an E2LLM checkpoint"):
        load(bases[1])


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


# --- names, the hub's cache, noise ------------------------------------------------------------------------


def hub_cache(folder, cache, repo):
    """Lay a folder out as the hub's cache does."""
    root = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


def test_a_hub_id_is_loaded_from_the_cache_with_its_bases_and_lora(
    on_bases, bases, tmp_path, inputs, monkeypatch
):
    cache = tmp_path / "cache"
    for folder, repo in ((bases[0], "someone/encoder"), (bases[1], "someone/decoder")):
        hub_cache(folder, cache, repo)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    torch.manual_seed(3)
    model = E2LLMForConditionalGeneration.from_parts("someone/encoder", "someone/decoder", max_soft_tokens=4)
    with_lora(model).save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert model.part_sources["decoder"].name == "someone/decoder"
    processor = E2LLMProcessor.from_parts("someone/encoder", "someone/decoder", chunk_size_chars=48)
    processor.save_pretrained(tmp_path / "saved")
    hub_cache(tmp_path / "saved", cache, "someone/e2llm")
    shutil.rmtree(tmp_path / "saved")
    assert_same_model(model, AutoModelForCausalLM.from_pretrained("someone/e2llm"), inputs)
    loaded = AutoProcessor.from_pretrained("someone/e2llm")
    assert loaded(context=TEXT, prompt="a").keys() == inputs.keys()


def test_names_are_resolved_to_embedded_folders_unless_a_folder_of_that_name_is_here(tmp_path, monkeypatch):
    (tmp_path / "embedded/mini").mkdir(parents=True)
    (tmp_path / "embedded/mini/config.json").write_text("{}")
    monkeypatch.setattr(parts, "EMBEDDED_FOLDER", tmp_path / "embedded")
    assert parts.resolve_source("mini") == str(tmp_path / "embedded/mini")
    assert parts.resolve_source("someone/model") == "someone/model"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    assert parts.resolve_source("mini") == "mini"


def test_an_embedded_encoder_with_other_weights_is_refused(bases, monkeypatch):
    monkeypatch.setattr(parts, "resolve_source", lambda name: str(bases[0]))
    with pytest.raises(CheckpointError, match=r"the weights have SHA-256 .*reinstall the package"):
        parts.load_part("encoder", parts.MINILM_ID)


def test_a_fingerprint_covers_every_shard(bases):
    whole = parts.fingerprint(str(bases[1]))
    tiny_decoder().save_pretrained(bases[1], max_shard_size="40KB")
    (bases[1] / "model.safetensors").unlink(missing_ok=True)
    sharded = parts.fingerprint(str(bases[1]))
    last = sorted(bases[1].glob("model-*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\x7f")
    assert len({whole, sharded, parts.fingerprint(str(bases[1]))}) == 3


def test_loading_is_quiet_and_leaves_transformers_settings_as_they_were(
    on_bases, bases, model, tmp_path, capfd, caplog
):

    state = {f"bert.{name}": tensor for name, tensor in load_file(bases[0] / "model.safetensors").items()}
    state |= {"bert.pooler.dense.weight": torch.zeros(32, 32), "cls.predictions.bias": torch.zeros(256)}
    save_file(state, bases[0] / "model.safetensors", metadata={"format": "pt"})
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    capfd.readouterr()
    caplog.clear()
    made = E2LLMForConditionalGeneration.from_parts(*bases)
    made.save_pretrained(tmp_path / "a")
    load(tmp_path / "a")
    with_lora(model).save_pretrained(tmp_path / "b", self_contained=True)
    load(tmp_path / "b")
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_the_processor_is_saved_with_its_settings(tmp_path):
    processor = tiny_processor(chunk_size_chars=33, overlap_chars=5, chunk_kind="code", num_soft_tokens=3)
    processor.save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    for loaded in (E2LLMProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert (loaded.chunk_size_chars, loaded.overlap_chars, loaded.chunk_kind) == (33, 5, "code")
        assert (loaded.num_soft_tokens, loaded.max_chunk_tokens) == (3, 64)
        assert loaded.chunk_token_id == processor.chunk_token_id
        ids = loaded(context=TEXT, prompt="Where?")["input_ids"]
        assert torch.equal(ids, processor(context=TEXT, prompt="Where?")["input_ids"])


@pytest.mark.parametrize("name", ["processor_config.json", "encoder_tokenizer/tokenizer_config.json"])
def test_a_processor_that_lacks_a_file_is_refused(tmp_path, name):
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    for loader in (E2LLMProcessor, AutoProcessor):
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            loader.from_pretrained(tmp_path)


def test_a_processor_whose_tokenizer_brings_code_is_refused(tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    edit_json(
        tmp_path / "encoder_tokenizer/tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
    )
    (tmp_path / "encoder_tokenizer/evil.py").write_text("raise SystemExit('this must not run')")
    try:
        loaded = E2LLMProcessor.from_pretrained(tmp_path)
    except E2LLMError:
        return
    assert type(loaded.encoder_tokenizer).__module__.startswith("transformers")


def test_saving_leaves_no_hidden_files(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert publication.complete_folder(tmp_path) == tmp_path


def test_the_decoders_tokenizer_reloads_alone(tmp_path):
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids("<|chunk|>") == processor.chunk_token_id


def test_a_saved_configuration_names_its_base_and_no_folder_of_this_machine(tmp_path):
    model = E2LLMForConditionalGeneration.from_parts(parts.MINILM_ID, tiny_decoder(), chunk_token_id=3)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["encoder_config"]["_name_or_path"] == parts.MINILM_ID
