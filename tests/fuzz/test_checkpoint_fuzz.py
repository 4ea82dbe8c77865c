import json
import os
import pickle
import shutil
import struct

import pytest
import torch
from fuzzing import DEEP, EXAMPLES, HUGE, altered, as_json, bounded, damaged, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from e2llm import E2LLMForConditionalGeneration
from e2llm.errors import CheckpointError
from e2llm.modeling import lora
from e2llm.modeling.checkpoints.manifest import read_manifest
from tiny_models import tiny_decoder, tiny_decoder_tokenizer, tiny_encoder, tiny_encoder_tokenizer, tiny_model

MANIFEST = "e2llm_manifest.json"
PARTS = ("encoder", "decoder")
INDEX = "model.safetensors.index.json"


def load(folder):
    return E2LLMForConditionalGeneration.from_pretrained(folder)


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A checkpoint that holds all its weights, in shards."""
    folder = tmp_path_factory.mktemp("inside")
    tiny_model().save_pretrained(folder, max_shard_size="60KB")
    return folder


@pytest.fixture(scope="module")
def on_bases(tmp_path_factory):
    """A checkpoint with LoRA that refers to its bases."""
    root = tmp_path_factory.mktemp("bases")
    tiny_encoder().save_pretrained(root / "encoder")
    tiny_encoder_tokenizer().save_pretrained(root / "encoder")
    tiny_decoder().save_pretrained(root / "decoder")
    tiny_decoder_tokenizer().save_pretrained(root / "decoder")
    model = E2LLMForConditionalGeneration.from_parts(root / "encoder", root / "decoder", max_soft_tokens=4)
    lora.set_modes(model, encoder="lora", decoder="lora", decoder_lora=lora.LoraSettings(rank=3, alpha=5))
    model.save_pretrained(root / "saved")
    return root / "saved"


@pytest.fixture(params=["inside", "on_bases"])
def folder(request, tmp_path):
    return shutil.copytree(request.getfixturevalue(request.param), tmp_path / "copy")


def weights_of(folder):
    return sorted(folder.glob("model*.safetensors"))[0]


# --- the manifest -------------------------------------------------------------------------------------------


@bounded
@given(st.data())
def test_a_damaged_manifest_is_refused_by_its_file_or_valid(on_bases, tmp_path, data):
    file = tmp_path / MANIFEST
    content = (on_bases / MANIFEST).read_bytes()
    changed = data.draw(damaged(content) | altered(json.loads(content)).map(as_json))
    file.write_bytes(changed)
    manifest = refused(lambda: read_manifest(file), file)
    if manifest is not None:
        assert all(type(size) is int for size in manifest.files.values())
        for entry in manifest.parts.values():
            assert entry.saved_here or (entry.name and entry.fingerprint)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": ["model.safetensors"]}, {"files": {"model.safetensors": "12"}}, {"files": {"a\0b": 1}},
        {"files": {"lora/../../x": 1}}, {"files": {"": 1}}, {"files": {"a\\..\\..\\x": 1}}, {"lora": "yes"},
        {"format": True}, {"format": float("nan")}, {"format": 0}, {"format": "1"},
        {"parts": {part: {"saved_here": False, "name": 5, "fingerprint": 6} for part in PARTS}},
        {"parts": {part: {"saved_here": "no", "name": "a", "fingerprint": "b"} for part in PARTS}},
    ],
)  # fmt: skip
def test_a_manifest_of_other_types_is_refused(folder, changes):
    content = {**json.loads((folder / MANIFEST).read_text()), **changes}
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not a valid manifest"):
        load(folder)


@pytest.mark.parametrize("content", [DEEP, f'{{"format": {HUGE}}}', "", "null"])
@pytest.mark.parametrize("name", [MANIFEST, "config.json", "generation_config.json", INDEX])
def test_json_that_is_none_is_refused(folder, name, content):
    if (folder / name).exists():
        (folder / name).write_text(content)
        assert refused(lambda: load(folder), folder) is None or name == "generation_config.json"


# --- config.json and code -----------------------------------------------------------------------------------


@settings(bounded, max_examples=max(EXAMPLES // 4, 1))
@given(st.data())
def test_other_values_in_the_configuration_are_refused_or_load(inside, tmp_path, data):
    shutil.copytree(inside, tmp_path / "copy", dirs_exist_ok=True)
    content = json.loads((inside / "config.json").read_text())
    changed = data.draw(
        altered(content, st.one_of(st.none(), st.sampled_from(["", "x", -1, 0, 1.5, True, [], {}])))
    )
    (tmp_path / "copy" / "config.json").write_text(json.dumps(changed))
    refused(lambda: load(tmp_path / "copy"))


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["beside", "instead", "in the index", "under the name"])
def test_no_pickle_is_ever_opened(folder, tmp_path, place):
    evil = pickle.dumps({"adapter.queries": Evil(tmp_path / "ran")})
    weights = weights_of(folder)
    for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(evil)
    if place == "instead":
        for file in folder.glob("model*.safetensors"):
            file.unlink()
        (folder / INDEX).unlink(missing_ok=True)
    elif place == "in the index":
        tensors = list(load_file(weights))
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "pytorch_model.bin")}
        (folder / INDEX).write_text(json.dumps(index))
    elif place == "under the name":
        weights.write_bytes(evil)
    if place == "beside":
        load(folder)
    else:
        content = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**content, "files": {}}))
        with pytest.raises(CheckpointError):
            load(folder)
    assert not (tmp_path / "ran").exists()


# --- the index ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outside", ["../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors", "", "."]
)
def test_an_index_that_names_files_elsewhere_is_refused(folder, tmp_path, outside):
    weights = weights_of(folder)
    shutil.copy(weights, tmp_path / "outside.safetensors")
    (folder / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), outside)})
    )
    with pytest.raises(CheckpointError, match=INDEX):
        load(folder)


@settings(bounded, max_examples=max(EXAMPLES // 4, 1))
@given(st.data())
def test_a_damaged_index_is_refused_or_loads(inside, tmp_path, data):
    shutil.copytree(inside, tmp_path / "copy", dirs_exist_ok=True)
    index = {"metadata": {}, "weight_map": {"adapter.queries": "model-00001-of-00002.safetensors"}}
    content = (inside / INDEX).read_bytes()
    changed = data.draw(
        damaged(content) | altered(index).map(as_json) | altered(json.loads(content)).map(as_json)
    )
    (tmp_path / "copy" / INDEX).write_bytes(changed)
    refused(lambda: load(tmp_path / "copy"))


# --- weights ------------------------------------------------------------------------------------------------


def forget_sizes(folder):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "files": {}}))


@pytest.mark.parametrize("length", [0, 2, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_any_stated_length_is_refused(folder, length):
    file = weights_of(folder)
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="safetensors"):
        load(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda entry, size: {"shape": [2**62]},
        lambda entry, size: {"shape": [2**62, 2**62]},
        lambda entry, size: {"shape": [-1]},
        lambda entry, size: {"dtype": "F8"},
        lambda entry, size: {"data_offsets": [0, 2**62]},
        lambda entry, size: {"data_offsets": [8, 4]},
        lambda entry, size: {"data_offsets": [size, size + 4]},
    ],
)
def test_a_header_that_does_not_fit_its_data_is_refused(folder, edit):
    file = weights_of(folder)
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name].update(edit(header[name], len(content) - 8 - length))
    changed = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])
    forget_sizes(folder)
    with pytest.raises(CheckpointError, match="safetensors"):
        load(folder)


def test_a_tensor_that_stands_twice_in_a_header_is_refused_or_the_same(folder):
    before = {key: value.clone() for key, value in load(folder).state_dict().items()}  # not the file's bytes
    file = weights_of(folder)
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].rstrip()
    entries = json.loads(header)
    name = next(name for name in entries if name != "__metadata__")
    twice = header[:-1] + b"," + json.dumps({name: entries[name]}).encode()[1:]
    file.write_bytes(struct.pack("<Q", len(twice)) + twice + content[8 + length :])
    forget_sizes(folder)
    found = refused(lambda: load(folder), folder)
    assert found is None or all(torch.equal(value, before[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_trained_tensors_that_are_no_numbers_are_refused(folder, value):
    for file in folder.rglob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if name.startswith("adapter.") or "lora_" in name:
                tensors[name].reshape(-1)[-1] = value
        save_file(tensors, file, metadata={"format": "pt"})
    forget_sizes(folder)
    with pytest.raises(CheckpointError, match="contains NaN or infinity"):
        load(folder)


def test_a_changed_bit_of_a_trained_tensor_is_found(on_bases, tmp_path):
    folder = shutil.copytree(on_bases, tmp_path / "copy")
    for file in folder.rglob("*.safetensors"):
        changed = bytearray(file.read_bytes())
        changed[-3] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=f"{file.name} has other content"):
            load(folder)
        changed[-3] ^= 1
        file.write_bytes(changed)
    load(folder)


def test_a_tensor_of_another_kind_of_number_is_refused_or_cast(folder):
    file = weights_of(folder)
    tensors = {name: tensor.to(torch.int64) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    forget_sizes(folder)
    refused(lambda: load(folder))
