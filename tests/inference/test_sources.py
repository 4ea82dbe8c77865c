"""Sources of an answer: ranked, measured by hiding chunks, cited, refined, doubted."""

from dataclasses import replace

import pytest
import torch

from e2llm import Engine
from e2llm.documents import Document
from e2llm.errors import E2LLMError
from e2llm.inference.decoding import evidence
from e2llm.inference.decoding.evidence import can_hide_chunks, hide_chunks
from e2llm.inference.decoding.likelihood import likelihood
from e2llm.inference.decoding.sources import cite, measured_sources
from e2llm.inference.options import AskRequest
from tiny_models import tiny_decoder, tiny_model, tiny_processor

BOATS = "".join(f"Boat number {i} is named after harbour {i * 7}. " for i in range(40))
QUESTION = "What is boat number 23 named after?"
ANSWER = [20, 31, 42, 53, 2]


@pytest.fixture(scope="module")
def boats(engine):
    return engine.read(BOATS, progress=False)


def lay_out(engine, context, **options):
    return engine.lay_out(context, AskRequest.take(QUESTION, {"budget": 200, **options}))


def hidden_by_hand(laid, answer_ids, place):
    """Log-likelihoods of the answer after the whole input in one pass, with the chunk masked behind it."""
    model, spans = laid.model, laid.chunk_spans
    end = spans[-1][1]
    ids = torch.tensor([[*laid.sample.input_ids, *answer_ids]])
    count = ids.shape[1]
    visible = torch.ones(count, count, dtype=torch.bool).tril()
    if place is not None:
        visible[end:, slice(*spans[place])] = False
    mask = torch.zeros(count, count).masked_fill(~visible, torch.finfo(torch.float32).min)
    embeds = model.merge(ids, chunk_embeds=laid.soft_tokens)
    logits = model.language_model(inputs_embeds=embeds, attention_mask=mask[None, None]).logits[0]
    scores = logits[-len(answer_ids) - 1 : -1].log_softmax(dim=-1)
    return scores.gather(1, torch.tensor(answer_ids)[:, None])[:, 0]


@pytest.mark.parametrize("options", [{"policy": "raw"}, {"policy": "soft"}, {"expand": [0, 5]}])
@torch.no_grad()
def test_a_hidden_chunk_is_hidden_from_question_and_answer_alone(engine, boats, options):
    laid = lay_out(engine, boats, **options)
    places = [0, len(laid.plan.kept) - 1]
    lost = hide_chunks(laid, ANSWER, places)
    whole = hidden_by_hand(laid, ANSWER, None)
    for row, place in zip(lost, places, strict=True):
        torch.testing.assert_close(row, whole - hidden_by_hand(laid, ANSWER, place), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(lost[0], lost[1], atol=1e-3)
    known = likelihood(laid.model, laid.sample.input_ids, laid.soft_tokens, ANSWER).log_likelihood
    assert float(whole.sum()) == pytest.approx(known, abs=1e-3)


def test_copies_do_not_depend_on_how_many_share_a_pass(engine, boats, monkeypatch):
    laid = lay_out(engine, boats)
    together = hide_chunks(laid, ANSWER, [0, 1, 2, 3])
    monkeypatch.setattr(evidence, "_PASS_POSITIONS", 1)
    torch.testing.assert_close(hide_chunks(laid, ANSWER, [0, 1, 2, 3]), together, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "opt", "gpt_neox"])
def test_the_cache_of_the_answer_saves_reading_the_context_again(family, monkeypatch):
    engine = Engine(tiny_model(decoder=family), tiny_processor())
    context = engine.read(BOATS, progress=False)
    caches = []

    def note(laid, ids, decode, cache):
        caches.append((laid, ids, cache))
        return measured_sources(laid, ids, decode, cache)

    monkeypatch.setattr("e2llm.inference.decoding.generation.measured_sources", note)
    engine.ask(context, QUESTION, budget=200, max_new_tokens=6)
    laid, ids, cache = caches[0]
    assert cache.get_seq_length() >= len(laid.sample.input_ids)
    places = [0, 2]
    torch.testing.assert_close(
        hide_chunks(laid, ids, places, cache), hide_chunks(laid, ids, places), atol=1e-4, rtol=1e-4
    )


def test_measured_sources_are_those_that_the_answer_loses_most_without(engine, boats, monkeypatch):
    lost = {0: 0.2, 1: 7.0, 2: -3.0, 3: 1.5, 4: 0.9}

    def hide(laid, ids, places, cache):
        return torch.tensor([[lost[row]] for row in range(len(places))])

    ranked = engine.ask(boats, QUESTION, budget=200, sources="ranked", max_new_tokens=1).sources
    monkeypatch.setattr("e2llm.inference.decoding.sources.hide_chunks", hide)
    measured = engine.ask(boats, QUESTION, budget=200, max_new_tokens=1).sources
    assert [(item.chunk, item.weight) for item in measured] == [
        (ranked[1].chunk, 7.0),
        (ranked[3].chunk, 1.5),
    ]
    assert [item.weight for item in ranked] == [None] * 5


def test_if_no_chunk_stands_out_all_are_given_as_ranked(engine, boats, monkeypatch):
    monkeypatch.setattr(
        "e2llm.inference.decoding.sources.hide_chunks",
        lambda laid, ids, places, cache: torch.zeros(len(places), 1),
    )
    ranked = engine.ask(boats, QUESTION, budget=200, sources="ranked", max_new_tokens=1)
    measured = engine.ask(boats, QUESTION, budget=200, sources="measured", max_new_tokens=1)
    assert [replace(item, weight=None) for item in measured.sources] == ranked.sources
    assert measured.cited == measured.text == ranked.cited


def test_answers_are_the_same_however_their_sources_are_found(engine, boats):
    ways = [
        engine.ask(boats, QUESTION, budget=200, sources=way, max_new_tokens=20)
        for way in ("measured", "ranked")
    ]
    assert ways[0].text == ways[1].text
    assert ways[0].timing.sources_seconds > ways[1].timing.sources_seconds == 0


def test_a_beam_search_has_measured_sources_too(engine, boats):
    answer = engine.ask(boats, QUESTION, budget=200, num_beams=2, max_new_tokens=3)
    assert all(item.weight is not None for item in answer.sources)


@pytest.mark.parametrize(
    ("family", "options", "can"),
    [
        ("llama", {}, True),
        ("gpt2", {}, True),
        ("mistral", {"sliding_window": 16}, False),
        ("gemma2", {}, False),
    ],
)
def test_a_decoder_that_cannot_hide_chunks_gives_ranked_sources(family, options, can):
    engine = Engine(tiny_model(decoder=tiny_decoder(family, **options)), tiny_processor())
    assert can_hide_chunks(engine.model) is can
    context = engine.read(BOATS, progress=False)
    answer = engine.ask(context, QUESTION, budget=200, max_new_tokens=2)
    assert all((item.weight is not None) is can for item in answer.sources)
    if not can:
        with pytest.raises(E2LLMError, match="use sources='ranked'"):
            engine.ask(context, QUESTION, budget=200, sources="measured", max_new_tokens=2)


# --- citations ----------------------------------------------------------------------------------------------


def decode_words(ids):
    return " ".join(["It is red.", "Nobody knows", "why.", "2.5 m"][index] for index in ids)


def test_each_sentence_cites_the_sources_it_rests_on():
    lost = torch.tensor([[3.0, 0.0, 0.1], [0.0, 2.0, 2.0], [1.5, 0.0, 0.0]])
    assert cite(decode_words, [0, 1, 2], lost) == "It is red. [1][3] Nobody knows why. [2]"


def test_an_answer_without_sources_cites_none():
    assert cite(decode_words, [0, 1, 2], torch.zeros(0, 3)) == "It is red. Nobody knows why."
    assert cite(decode_words, [], torch.zeros(0, 0)) == ""


def test_a_point_within_a_number_ends_no_sentence():
    assert cite(decode_words, [3, 0], torch.tensor([[0.0, 4.0]])) == "2.5 m It is red. [1]"


# --- a second answer, and doubt -----------------------------------------------------------------------------


def test_refine_gives_sources_that_were_soft_as_text(engine, boats, seen):
    coarse = engine.ask(boats, QUESTION, policy="soft", budget=200, max_new_tokens=2)
    assert coarse.usage.refined == 0
    finer = engine.ask(boats, QUESTION, policy="soft", budget=200, refine=1, max_new_tokens=2)
    assert finer.usage.refined == len(finer.expanded_chunks) > 0
    assert set(finer.expanded_chunks) <= {source.chunk for source in coarse.sources}
    assert len(seen.ids) <= 200
    for index in finer.expanded_chunks:
        assert boats.chunks[index].text.strip() in engine.processor.tokenizer.decode(seen.ids)


def test_refine_without_soft_sources_answers_once(engine, boats, seen, monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "lay_out", lambda *given, lay=engine.lay_out: asked.append(1) or lay(*given))
    answer = engine.ask(boats, QUESTION, policy="raw", budget=200, refine=2, max_new_tokens=2)
    assert (len(asked), answer.usage.refined) == (1, 0)


def test_a_refined_answer_is_one_piece(engine, boats):
    pieces = []
    answer = engine.ask(
        boats, QUESTION, policy="soft", budget=200, refine=1, max_new_tokens=8, on_piece=pieces.append
    )
    assert pieces == [answer.text]


@pytest.mark.parametrize("value", [-1, 4, True, 1.5])
def test_a_wrong_number_of_refinements_is_refused(engine, boats, value):
    with pytest.raises(E2LLMError, match="refine"):
        engine.ask(boats, QUESTION, refine=value)


def test_doubt_is_the_loss_of_the_answer_as_given_and_with_its_sources_as_text(engine, boats):
    options = {"policy": "soft", "budget": 240}
    answer = engine.ask(boats, QUESTION, max_new_tokens=4, **options)
    doubt = engine.doubt(boats, QUESTION, answer, **options)
    used = engine.score(boats, QUESTION, [answer.text], **options)[0]
    assert doubt.nats_per_token == used.mean_loss_nats
    named = engine.score(
        boats,
        QUESTION,
        [answer.text],
        expand=sorted(source.chunk for source in answer.sources),
        overflow="select",
        **options,
    )[0]
    assert doubt.finer_nats_per_token == pytest.approx(named.mean_loss_nats)
    assert doubt.finer_nats_per_token != doubt.nats_per_token


def test_doubt_about_an_answer_from_text_has_one_value(engine, boats):
    answer = engine.ask(boats, QUESTION, policy="raw", budget=200, max_new_tokens=4)
    doubt = engine.doubt(boats, QUESTION, answer, policy="raw", budget=200)
    assert doubt.finer_nats_per_token == doubt.nats_per_token


# --- ranked -------------------------------------------------------------------------------------------------


def test_sources_are_the_most_relevant_chunks_given_as_text_with_their_places(engine, boats):
    answer = engine.ask(boats, QUESTION, budget=200, select="bm25", sources="ranked", max_new_tokens=2)
    first = answer.sources[0]
    assert "Boat number 23 is named" in first.text
    assert first.text == BOATS[first.start : first.end] == boats.chunks[first.chunk].text
    forms = [item.level != "text" for item in answer.sources]
    assert forms == sorted(forms)  # text first
    relevance = [item.relevance for item in answer.sources if item.level == "text"]
    assert relevance == sorted(relevance, reverse=True)
    assert (first.level, str(first)) == ("text", "text, line 1")


def test_without_text_the_sources_are_soft(engine, boats):
    answer = engine.ask(boats, QUESTION, soft_tokens=2, sources="ranked", max_new_tokens=2)
    assert [item.level for item in answer.sources] == [2] * 5
    assert "Boat number 23 is named" in answer.sources[0].text


def test_a_source_names_the_place_of_its_document(engine):
    document = Document("report.pdf", "One boat.\n\nTwo boats.", places=((0, "page 1"), (11, "page 12")))
    answer = engine.ask(engine.read(document, progress=False), "Two?", max_new_tokens=1)
    assert {str(source) for source in answer.sources} == {"report.pdf, pages 1-12"}
    assert all(source.place == document.place_of(source.start, source.end) for source in answer.sources)


def test_a_source_of_a_text_counts_lines(engine):
    context = engine.read("One.\n\nTwo of them.\n" * 6, progress=False)
    answer = engine.ask(context, "Two?", max_new_tokens=1)
    document = context.documents[0].text
    for source in answer.sources:
        first, last = map(int, source.place.removeprefix("lines ").split("-"))
        assert "\n".join(document.splitlines()[first - 1 : last]) == source.text.strip()


def test_a_source_begins_at_its_first_visible_character(engine):
    text = "One.\n" * 9 + "\n\n" + "The key is under the blue stone. " * 3
    answer = engine.ask(engine.read(text, progress=False), "Where is the key?", budget=60, max_new_tokens=1)
    lines = text.split("\n")
    for source in answer.sources:
        number = int(str(source).rpartition(" ")[2])
        assert lines[number - 1].startswith(source.text.strip().split("\n")[0].split(" ")[0])
