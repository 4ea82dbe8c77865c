import pytest
import torch

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import (
    SYSTEMS,
    Bm25System,
    DenseSystem,
    FullSystem,
    HybridSystem,
    SoftSystem,
    TruncateSystem,
)
from e2llm.evaluation.systems.base import Readings
from e2llm.evaluation.systems.cache import KvPressSystem, StreamingSystem, StreamingWindow, turn_back
from e2llm.evaluation.systems.llmlingua import LlmLingua2System
from tiny_models import TEXT

LONG = Item("made", "1", TEXT * 6, "Where is the key?", ("under the stone",))
SHORT = Item("made", "2", TEXT[:60], "Where is the key?", ("under the stone",))
# Systems that answer within any budget; of the others, one refuses what is too long and two need packages.
FITTING = [kind for kind in SYSTEMS.values() if kind not in (FullSystem, KvPressSystem, LlmLingua2System)]


@pytest.mark.parametrize("system", FITTING, ids=lambda system: system.name)
def test_no_system_takes_more_positions_than_the_budget(engine, system):
    output = system(engine, Readings(engine), 200).answer(LONG, 8)
    answered = 0 if system is StreamingSystem else 8  # a stream's cache holds the answer, too
    assert 0 < output.cost.decoder_positions + answered <= 200


@pytest.mark.parametrize("system", FITTING, ids=lambda system: system.name)
def test_every_system_scores_given_answers(engine, system):
    first, second = system(engine, Readings(engine), 200).score(LONG, ["under", "seven boats"])
    assert first.log_likelihood < 0
    assert second.num_tokens > first.num_tokens


def test_the_whole_text_is_refused_where_it_does_not_fit_and_never_cut(engine):
    with pytest.raises(ContextOverflowError, match=r"the context has [\d,]+ tokens, but there is room for"):
        FullSystem(engine, Readings(engine), 200).answer(LONG, 8)
    assert FullSystem(engine, Readings(engine), None).answer(SHORT, 8).cost.context_fraction == 1.0


@pytest.mark.parametrize("system", [TruncateSystem, Bm25System, StreamingSystem])
def test_a_text_that_fits_is_answered_as_the_whole_text_is(engine, system):
    whole = FullSystem(engine, Readings(engine), None)
    other = system(engine, Readings(engine), None)
    assert other.answer(SHORT, 8).text == whole.answer(SHORT, 8).text
    one, two = (item.score(SHORT, ["under the stone"])[0] for item in (whole, other))
    assert two.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-4)


def test_hybrid_gives_the_text_alone_where_all_of_it_fits(engine):
    output = HybridSystem(engine, Readings(engine), None).answer(SHORT, 8)
    assert output.given["soft_tokens_per_chunk"] == 0
    covered = "".join(SHORT.context[start:end] for start, end in output.given["raw_spans"])
    assert covered.split() == SHORT.context.split()


def test_truncation_keeps_the_beginning_and_the_end(engine):
    view = TruncateSystem(engine, Readings(engine), 200).view(LONG, 8)
    text = view.context.chunks[0].text
    (start, head), (tail, end) = view.raw_spans
    assert (start, end) == (0, len(LONG.context))
    assert 0 < head < tail
    assert text == LONG.context[:head] + "\n...\n" + LONG.context[tail:]


def test_passages_are_the_ones_that_share_words_in_document_order(engine):
    context = "The sea was calm that night. " * 40 + "The key is under the stone. " + "They slept well. " * 40
    item = Item("made", "3", context, "Where is the key?", ("under the stone",))
    view = Bm25System(engine, Readings(engine), 200).view(item, 8)
    assert "The key is under the stone" in view.context.chunks[0].text
    assert list(view.raw_spans) == sorted(view.raw_spans)


def test_a_text_is_read_once_for_all_its_questions(engine, monkeypatch):
    readings, calls, read = Readings(engine), [], engine.read_text
    monkeypatch.setattr(
        engine, "read_text", lambda text, **options: calls.append(text) or read(text, **options)
    )
    for system in (SoftSystem, HybridSystem, DenseSystem):
        system(engine, readings, 200).answer(LONG, 4)
    assert len(calls) == 1


def test_turned_back_keys_are_those_of_earlier_positions(engine):
    decoder = engine.model.language_model
    window = StreamingWindow(decoder, 64)
    layer, hidden = decoder.model.layers[0], torch.randn(1, 3, decoder.config.hidden_size)

    def keys_at(start):
        cos, sin = decoder.model.rotary_emb(hidden, torch.arange(start, start + 3)[None])
        plain = layer.self_attn.k_proj(hidden).view(1, 3, -1, layer.self_attn.head_dim).transpose(1, 2)
        first, second = plain.chunk(2, dim=-1)
        return plain * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]

    with torch.no_grad():
        assert torch.allclose(turn_back(keys_at(20), window.frequencies, 7), keys_at(13), atol=1e-5)


def test_a_stream_keeps_its_first_and_its_last_tokens(engine):
    window = StreamingWindow(engine.model.language_model, 40)
    ids = torch.randint(5, 300, (130,), generator=torch.Generator().manual_seed(0)).tolist()
    window.feed(ids[:20])
    first = window.cache.layers[0].values[:, :, :4].clone()
    window.feed(ids[20:])
    assert window.max_length <= 40
    assert torch.equal(window.cache.layers[0].values[:, :, :4], first)


def test_a_decoder_without_rotary_positions_is_refused():
    from tiny_models import tiny_decoder

    with pytest.raises(E2LLMError, match="those of gpt2 differ"):
        StreamingWindow(tiny_decoder("gpt2"), 64)
