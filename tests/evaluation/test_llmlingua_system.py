"""LLMLingua-2 against a stand-in for its package and, where that is installed, against the package itself."""

import importlib.util
import json
import re
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedTokenizerFast

from e2llm.errors import CheckpointError, ContextOverflowError, MissingExtraError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import FullSystem
from e2llm.evaluation.systems.base import Readings
from e2llm.evaluation.systems.llmlingua import DecoderCounter, LlmLingua2System, make_compressor
from tiny_models import ENCODERS, TEXT, tiny_encoder_tokenizer

LONG = Item("made", "1", TEXT * 6, "Where is the key?", ("under the stone",))
SHORT = Item("made", "2", TEXT[:60], "Where is the key?", ("under the stone",))


class StandIn:
    """The package's compressor as far as it is used: keeps the words that stand first."""

    def __init__(self, *args, **kwargs):
        raise AssertionError("the constructor downloads a tokenizer and allows code from checkpoints")

    def compress_prompt_llmlingua2(self, context, rate):
        self.rates = [*getattr(self, "rates", []), rate]
        assert not self.model.training
        words = context[0].split()
        return {"compressed_prompt": " ".join(words[: int(len(words) * rate)])}


@pytest.fixture(params=["stand-in", "installed"])
def package(request, monkeypatch):
    """The stand-in in the place of the package, or the package, without a network."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "llmlingua", SimpleNamespace(PromptCompressor=StandIn))
    elif importlib.util.find_spec("llmlingua") is None:
        pytest.skip("llmlingua is not installed")

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return request.param


def xlm_roberta_tokenizer():
    """Characters, at the start of a word behind its mark."""
    characters = [chr(code) for code in range(33, 127)]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "▁", *characters]
    core = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **names)


def save_classifier(folder, family="bert", **options):
    settings = {"vocab_size": 256, "num_labels": 2, "initializer_range": 0.3, **ENCODERS[family], **options}
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(AutoConfig.for_model(family, **settings))
    model.save_pretrained(folder)
    tokenizer = tiny_encoder_tokenizer() if family == "bert" else xlm_roberta_tokenizer()
    tokenizer.save_pretrained(folder)
    return str(folder)


def compressing(engine, folder, budget=200, family="bert"):
    return LlmLingua2System(engine, Readings(engine), budget, save_classifier(folder, family))


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_the_words_that_are_kept_fill_the_budget(engine, tmp_path, package, family):
    system = compressing(engine, tmp_path, family=family)
    output = system.answer(LONG, 8)
    room = 200 - 8 - system.overhead(LONG)
    assert 0.8 * room < output.cost.context_tokens <= room
    assert output.cost.decoder_positions == output.cost.context_tokens + system.overhead(LONG)
    assert output.given["raw_spans"] == []
    assert 0 < output.given["kept_percent"] < 100
    assert 0 < output.cost.context_fraction < 1
    kept = system.view(LONG, 8).context.chunks[0].text
    letters = iter(re.sub(r"\W", "", LONG.context))
    assert all(letter in letters for letter in re.sub(r"\W", "", kept))  # in their order


def test_a_text_that_fits_is_given_whole(engine, tmp_path, package):
    output = compressing(engine, tmp_path, None).answer(SHORT, 8)
    assert output.text == FullSystem(engine, Readings(engine), None).answer(SHORT, 8).text
    assert output.given["raw_spans"] == [[0, len(SHORT.context)]]


def test_given_answers_are_scored_behind_what_was_kept(engine, tmp_path, package):
    (first,) = compressing(engine, tmp_path).score(LONG, ["under"])
    assert first.log_likelihood < 0


def test_a_text_too_long_for_the_least_share_is_refused(engine, tmp_path, package):
    item = Item("made", "3", TEXT * 300, "Where is the key?", ("under the stone",))
    system = compressing(engine, tmp_path)
    system.budget = system.overhead(item) + 8 + 100
    with pytest.raises(ContextOverflowError, match=r"there is room for 100; LLMLingua-2 keeps at least 1%"):
        system.answer(item, 8)


def test_a_text_is_compressed_once_for_questions_that_leave_the_same_room(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmlingua", SimpleNamespace(PromptCompressor=StandIn))
    system = compressing(engine, tmp_path)
    first, second = system.view(LONG, 8), system.view(LONG, 8)
    assert len(system._compressor.rates) == 1
    assert first.read_seconds == second.read_seconds > 0


def test_a_share_that_comes_out_too_long_is_made_smaller(engine, tmp_path, monkeypatch):
    class Wordy(StandIn):
        def compress_prompt_llmlingua2(self, context, rate):
            return super().compress_prompt_llmlingua2(context, min(1.0, 2 * rate))

    monkeypatch.setitem(sys.modules, "llmlingua", SimpleNamespace(PromptCompressor=Wordy))
    system = compressing(engine, tmp_path)
    room = 200 - 8 - system.overhead(LONG)
    assert 0 < system.answer(LONG, 8).cost.context_tokens <= room
    assert len(system._compressor.rates) > 1


@pytest.mark.skipif(importlib.util.find_spec("llmlingua") is None, reason="llmlingua is not installed")
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_the_packages_own_constructor_makes_the_same_of_a_text(engine, tmp_path, monkeypatch, family):
    import tiktoken  # comes with it
    from llmlingua import PromptCompressor

    name = {"bert": "bert-base-multilingual-cased", "xlm-roberta": "xlm-roberta-large"}[family]
    folder = save_classifier(tmp_path / name, family, max_position_embeddings=520)
    settings = tmp_path / name / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 512}))
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: DecoderCounter(engine))
    own = PromptCompressor(folder, "cpu", {"trust_remote_code": False}, use_llmlingua2=True)
    ours = make_compressor(folder, engine)
    for rate in (0.055, 0.305, 0.805):
        kept = ours.compress_prompt_llmlingua2([LONG.context], rate=rate)["compressed_prompt"]
        assert kept == own.compress_prompt([LONG.context], rate=rate)["compressed_prompt"]
        assert kept


def test_a_missing_package_is_named_with_the_command_that_brings_it(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmlingua", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[llmlingua\]'"):
        compressing(engine, tmp_path)


def test_only_complete_classifiers_in_safetensors_without_code_are_loaded(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmlingua", SimpleNamespace(PromptCompressor=StandIn))

    def load(folder):
        return LlmLingua2System(engine, Readings(engine), 200, str(folder))

    with pytest.raises(CheckpointError, match="is a bert with 3 labels; LLMLingua-2 has bert or xlm-roberta"):
        load(save_classifier(tmp_path / "three", num_labels=3))
    folder = tmp_path / "code"
    save_classifier(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "code.Config"}}))
    with pytest.raises(CheckpointError, match="auto_map"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors weights found"):
        load(folder)
    settings = AutoConfig.for_model("bert", **{**ENCODERS["bert"], "vocab_size": 256})
    headless = AutoModelForTokenClassification.from_config(settings)
    headless.bert.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="the weights lack"):
        load(folder)
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere")
