"""Names of checkpoints, the cache of the hub, and what saving leaves beside the weights."""

import json
import shutil

import pytest
import torch
from checkpoint_folders import edit_json, load, with_lora
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.utils import logging

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor
from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.checkpoints import parts, publication, sources
from tiny_models import (
    TEXT,
    assert_same_model,
    tiny_decoder,
    tiny_model,
    tiny_processor,
)


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
    (tmp_path / "embedded/smol").mkdir(parents=True)
    (tmp_path / "embedded/smol/config.json").write_text("{}")
    monkeypatch.setattr(sources, "EMBEDDED_FOLDER", tmp_path / "embedded")
    assert sources.resolve_source("smol") == str(tmp_path / "embedded/smol")
    assert sources.resolve_source("someone/model") == "someone/model"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smol").mkdir()
    assert sources.resolve_source("smol") == "smol"


def test_an_embedded_encoder_with_other_weights_is_refused(bases, monkeypatch):
    monkeypatch.setattr(sources, "resolve_source", lambda name: str(bases[0]))
    with pytest.raises(CheckpointError, match=r"the weights have SHA-256 .*reinstall the package"):
        parts.load_part("encoder", sources.MINILM_ID)


def test_a_fingerprint_covers_every_shard(bases):
    whole = sources.fingerprint(str(bases[1]))
    tiny_decoder().save_pretrained(bases[1], max_shard_size="40KB")
    (bases[1] / "model.safetensors").unlink(missing_ok=True)
    sharded = sources.fingerprint(str(bases[1]))
    last = sorted(bases[1].glob("model-*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\x7f")
    assert len({whole, sharded, sources.fingerprint(str(bases[1]))}) == 3


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
    model = E2LLMForConditionalGeneration.from_parts(sources.MINILM_ID, tiny_decoder(), chunk_token_id=3)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["encoder_config"]["_name_or_path"] == sources.MINILM_ID
