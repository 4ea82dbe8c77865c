"""A press on the cache against a stand-in for kvpress and, where it is installed, against kvpress itself."""

import importlib.util
import socket
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from e2llm import Engine
from e2llm.errors import ContextOverflowError, E2LLMError, MissingExtraError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import FullSystem
from e2llm.evaluation.systems.base import Readings
from e2llm.evaluation.systems.cache import KvPressSystem, PressName, load_kvpress
from tiny_models import TEXT, tiny_model, tiny_processor

LONG = Item("made", "1", TEXT * 4, "Where is the key?", ("under the stone",))
SHORT = Item("made", "2", TEXT[:60], "Where is the key?", ("under the stone",))
LONGER = Item("made", "3", TEXT * 8, "Where is the key?", ("under the stone",))


class EvenPress:
    """As a press of kvpress: hooks on the attention layers cut what the first pass put into the cache.

    It keeps the same positions everywhere, evenly spread, so that what follows can be computed without it.
    """

    def __init__(self, compression_ratio, window_size=None):
        self.compression_ratio = compression_ratio

    @staticmethod
    def positions(count, kept):
        return [index * count // kept for index in range(kept)]

    @contextmanager
    def __call__(self, model):
        hooks = []
        for layer in model.model.layers:
            layer.self_attn.rotary_emb = model.model.rotary_emb
            hooks.append(layer.self_attn.register_forward_hook(self.hook, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def hook(self, module, args, kwargs, output):
        layer, count = kwargs["past_key_values"].layers[module.layer_idx], kwargs["hidden_states"].shape[1]
        assert kwargs["cache_position"][-1] + 1 == count
        kept = self.positions(count, int(count * (1 - self.compression_ratio)))
        layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]


def stand_in():
    names = ("ExpectedAttentionPress", "KeyDiffPress", "KnormPress", "SnapKVPress", "TOVAPress")
    return SimpleNamespace(SUPPORTED_MODELS=(LlamaForCausalLM,), **dict.fromkeys(names, EvenPress))


@pytest.fixture
def stand_in_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "kvpress", stand_in())


@pytest.fixture(params=["stand-in", "installed"])
def package(request, monkeypatch):
    """The stand-in in the place of the package, or the package, without a network."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "kvpress", stand_in())
    elif importlib.util.find_spec("kvpress") is None:
        pytest.skip("kvpress is not installed")

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return request.param


def pressing(engine, budget, press="knorm"):
    return KvPressSystem(engine, Readings(engine), budget, press)


@pytest.mark.parametrize("press", get_args(PressName))
def test_the_cache_holds_what_the_budget_leaves_and_the_answer_fits(engine, package, press):
    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    system = pressing(engine, 120, press)
    output = system.answer(LONG, 8)
    assert output.cost.decoder_positions == 120 - 8 + output.cost.new_tokens - 1
    first, second = system.score(LONG, ["under", "seven boats"])
    assert first.log_likelihood < 0
    assert second.num_tokens > first.num_tokens
    assert dict(ALL_ATTENTION_FUNCTIONS.items()) == before


def test_a_text_that_fits_is_answered_as_the_whole_text_is(engine, package):
    one, two = pressing(engine, None), FullSystem(engine, Readings(engine), None)
    assert one.answer(SHORT, 8).text == two.answer(SHORT, 8).text
    scores = [system.score(SHORT, ["under the stone"])[0].log_likelihood for system in (one, two)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_what_follows_sees_the_kept_positions_where_they_stood_in_the_text(engine, stand_in_package):
    system = pressing(engine, 120)
    decoder, template = engine.model.language_model, engine.processor.template
    question = system.readings.question_ids(LONG.prompt)[len(template.before_context) :]
    context = [*template.before_context, *engine.processor.encode(LONG.context)]
    cache = system.prefill(context, question, 8)
    kept = EvenPress.positions(len(context), 120 - 8 - len(question))
    assert cache.length == len(kept) < len(context)
    logits = cache.feed(question, all_logits=True)

    ids = torch.tensor([[*context, *question]])
    sees = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    dropped = sorted(set(range(len(context))) - set(kept))
    sees[len(context) :, dropped] = False
    with torch.no_grad():
        expected = decoder(input_ids=ids, attention_mask=sees[None, None]).logits[0, len(context) :]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_the_decoder_is_left_as_it_was(engine, package):
    layers = [layer.self_attn for layer in engine.model.language_model.model.layers]
    pressing(engine, 120).answer(LONG, 4)
    assert not any(hasattr(layer, "rotary_emb") or layer._forward_hooks for layer in layers)


def test_a_text_that_the_decoder_cannot_read_whole_is_refused(engine, package):
    with pytest.raises(
        ContextOverflowError, match=r"need [\d,]+ positions, but the decoder's window has 512"
    ):
        pressing(engine, 120).answer(LONGER, 8)


def test_a_budget_without_room_for_the_context_is_refused(engine, package):
    system = pressing(engine, None)
    system.budget = system.overhead(LONG) - len(engine.processor.template.before_context) + 8 + 7
    with pytest.raises(ContextOverflowError, match="raise --budget"):
        system.answer(LONG, 8)


def test_an_unsupported_decoder_is_refused_before_anything_is_read(package):
    other = Engine(tiny_model(decoder="gpt_neox"), tiny_processor())
    with pytest.raises(E2LLMError, match="the decoder is a GPTNeoXForCausalLM"):
        pressing(other, 120)


def test_a_missing_package_is_named_with_the_command_that_brings_it(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "kvpress", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[kvpress\]'"):
        pressing(engine, 120)


def test_a_package_that_wraps_attention_on_import_changes_it_for_nobody_else(tmp_path, monkeypatch):
    (tmp_path / "kvpress.py").write_text(
        "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as found\n"
        "for name in list(found): found[name] = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "kvpress", None)  # so that it is put back or taken out afterwards
    del sys.modules["kvpress"]
    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    assert load_kvpress().found is ALL_ATTENTION_FUNCTIONS
    assert dict(ALL_ATTENTION_FUNCTIONS.items()) == before
