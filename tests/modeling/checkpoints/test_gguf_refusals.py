"""GGUF files that cannot be loaded: each is refused in one sentence."""

import random
import sys
from contextlib import suppress

import pytest

from e2llm.errors import CheckpointError, MissingExtraError
from e2llm.modeling.checkpoints.gguf import check_gguf
from e2llm.modeling.checkpoints.parts import load_part

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from gguf import GGUFReader
from gguf_files import with_type_number, write_gguf

pytestmark = pytest.mark.usefixtures("cache")


def test_a_missing_package_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[gguf\]'"):
        load_part("decoder", str(file))


@pytest.mark.parametrize("name", ["missing.gguf", "./missing.gguf", "MISSING.GGUF"])
def test_a_missing_file_is_named(name):
    with pytest.raises(CheckpointError, match="no such file"):
        load_part("decoder", name)


@pytest.mark.parametrize("architecture", ["clip", "whisper"])
def test_no_language_model_is_refused(tmp_path, architecture):
    file = write_gguf(tmp_path / "tiny.gguf", architecture=architecture)
    with pytest.raises(CheckpointError, match=f"has a model of architecture {architecture}"):
        load_part("decoder", str(file))


@pytest.mark.parametrize("part", ["decoder", "encoder"])
@pytest.mark.parametrize("architecture", ["bert", "t5", "imagined", "general"])
def test_an_unsupported_architecture_is_refused_and_the_supported_are_named(tmp_path, architecture, part):
    file = write_gguf(tmp_path / "tiny.gguf", architecture=architecture)
    with pytest.raises(CheckpointError, match=f"architecture {architecture}, .*llama, .*qwen3, .*qwen3moe"):
        load_part(part, str(file))


def test_a_file_that_is_no_gguf_file_is_refused(tmp_path):
    for content in (b"", b"GG", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1"):
        (tmp_path / "tiny.gguf").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a GGUF file"):
            load_part("decoder", str(tmp_path / "tiny.gguf"))


def test_another_version_is_refused(file):
    content = bytearray(file.read_bytes())
    content[4:8] = (9).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="version 9 which we cannot handle"):
        load_part("decoder", str(file))


def test_a_file_cut_short_anywhere_is_refused(file):
    content, start = file.read_bytes(), GGUFReader(file).data_offset
    for length in [*range(4, start, 61), *range(start, len(content) - 64, 4001)]:
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut short|not a GGUF file"):
            check_gguf(file)
    with pytest.raises(CheckpointError, match="download it again"):
        load_part("decoder", str(file))


def test_no_byte_of_a_header_raises_anything_else(file):
    content, start = file.read_bytes(), GGUFReader(file).data_offset
    draws = random.Random(0)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(draws.choice((1, 8))):
            damaged[draws.randrange(8, start)] = draws.choice((0, 1, 0x7F, 0xFF))
        file.write_bytes(damaged)
        with suppress(CheckpointError):
            check_gguf(file)


@pytest.mark.parametrize(("number", "told"), [(24, "I8")])
def test_an_unsupported_quantization_is_named(file, number, told):
    with_type_number(file, "token_embd.weight", number)
    with pytest.raises(CheckpointError, match=rf"cannot be loaded: .*{told}"):
        load_part("decoder", str(file))


def test_a_row_that_does_not_fill_its_blocks_is_refused(file):
    with_type_number(file, "blk.0.ffn_down.weight", 8)
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load_part("decoder", str(file))


def test_a_split_file_is_refused(file, tmp_path):
    named = file.rename(file.with_name("tiny-00001-of-00003.gguf"))
    marked = write_gguf(tmp_path / "tiny.gguf", edit=lambda writer: writer.add_uint16("split.count", 3))
    for part in (named, marked):
        with pytest.raises(CheckpointError, match=r"one of 3 parts of a split GGUF file.*--merge"):
            load_part("decoder", str(part))


def test_scaled_positions_are_refused(tmp_path):
    import numpy as np

    frequencies = {"rope_freqs.weight": np.ones(4, dtype=np.float32)}
    file = write_gguf(tmp_path / "llama3.gguf", extra=frequencies)
    with pytest.raises(CheckpointError, match=r"positions are scaled \(rope_freqs.weight\)"):
        load_part("decoder", str(file))
    file = write_gguf(
        tmp_path / "yarn.gguf", edit=lambda writer: writer.add_string("llama.rope.scaling.type", "yarn")
    )
    with pytest.raises(CheckpointError, match=r"positions are scaled \(llama.rope.scaling.type = yarn\)"):
        load_part("decoder", str(file))


def test_a_file_that_lacks_tensors_is_refused(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", leave_out=("blk.1.ffn_up.weight",))
    with pytest.raises(
        CheckpointError,
        match=r"tensors missing or of another shape than stated: model.layers.1.mlp.up_proj.weight",
    ):
        load_part("decoder", str(file))


def test_a_file_whose_tensors_are_not_as_its_header_says_is_refused(tmp_path):
    def edit(writer):
        del writer.kv_data[0]["llama.feed_forward_length"]
        writer.add_feed_forward_length(40)

    file = write_gguf(tmp_path / "tiny.gguf", edit=edit)
    with pytest.raises(CheckpointError, match=r"of another shape than stated: .*mlp.down_proj.weight"):
        load_part("decoder", str(file))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf")
    content = bytearray(file.read_bytes())
    content[-64:] = b"\xff" * 64
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="contain NaN or infinity"):
        load_part("decoder", str(file))


@pytest.mark.parametrize("key", ["llama.context_length", "llama.block_count", "tokenizer.ggml.tokens"])
def test_metadata_that_is_missing_is_named(tmp_path, key):
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes().replace(key.encode(), key.encode()[:-1] + b"_"))
    with pytest.raises(CheckpointError, match=f"metadata lacks {key}"):
        load_part("decoder", str(file))
