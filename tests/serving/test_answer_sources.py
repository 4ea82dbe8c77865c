"""Sources of a served answer: ranked, measured, cited, and of each of several answers."""

from dataclasses import asdict

import pytest
import torch

from e2llm.documents import Document
from e2llm.inference.options import AskRequest
from served import MODEL, serving, tiny_engine
from tiny_models import TEXT, tiny_decoder

QUESTION = "Where is the key?"


@pytest.fixture(scope="module")
def served():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def http(served):
    with served.http() as client:
        yield client


@pytest.fixture(scope="module")
def context_id(http):
    document = {"text": TEXT * 3, "name": "harbour.txt"}
    return http.post("/v1/contexts", json={"documents": [document]}).json()["id"]


def ask(http, **more):
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, **more}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("sources", ["ranked", "measured"])
def test_sources_are_those_of_the_library(served, http, context_id, sources):
    answer = ask(http, context_ids=[context_id], budget=150, sources=sources)
    engine = served.state.engine
    context = engine.read(Document("harbour.txt", TEXT * 3), progress=False)
    options = {"budget": 150, "max_new_tokens": 12}
    ours = engine.ask(context, QUESTION, sources="ranked", **options)
    wanted = ours.sources
    if sources == "measured":
        laid = engine.lay_out(context, AskRequest.take(QUESTION, dict(options)))
        wanted, _ = engine.measure_sources(laid, answer["choices"][0]["message"]["content"])
    [found] = answer["e2llm"]["sources"]
    assert [item["chunk"] for item in found] == [item.chunk for item in wanted]
    for item, source in zip(found, wanted, strict=True):
        values = asdict(source)
        assert item.pop("weight") == pytest.approx(values.pop("weight"), abs=0.02)
        assert {name: item[name] for name in values} == values
        assert (item["context_id"], item["context_chunk"]) == (context_id, source.chunk)
    assert answer["e2llm"]["levels"] == ours.levels
    assert (answer["e2llm"]["timing"]["sources_seconds"] > 0) == (sources == "measured")


def test_each_answer_has_its_own_sources(http, context_id):
    answer = ask(http, context_ids=[context_id], budget=150, n=3, seed=1, temperature=1.5, sources="measured")
    weights = [[item["weight"] for item in found] for found in answer["e2llm"]["sources"]]
    assert len(weights) == 3
    assert weights[0] != weights[1]


def test_citations_stand_in_the_text(http, context_id, monkeypatch):
    def hide(laid, ids, places, cache):
        return torch.full((len(places), len(ids)), 5.0)

    monkeypatch.setattr("e2llm.inference.sources.hide_chunks", hide)
    plain = ask(http, context_ids=[context_id], budget=150)
    cited = ask(http, context_ids=[context_id], budget=150, citations=True)
    text = cited["choices"][0]["message"]["content"]
    assert text.endswith("".join(f"[{number}]" for number in range(1, len(cited["e2llm"]["sources"][0]) + 1)))
    assert text.startswith(plain["choices"][0]["message"]["content"])


def test_citations_of_a_stream_are_refused(http, context_id):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "stream": True, "citations": True}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "citations"


def test_a_stream_tells_its_ranked_sources_first_and_measured_ones_last(served, context_id):
    with served.openai() as client:
        parts = list(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": QUESTION}],
                max_tokens=12,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"context_ids": [context_id], "budget": 150, "sources": "measured"},
            )
        )
    first, last = parts[0].e2llm["sources"][0], parts[-1].e2llm["sources"][0]
    assert all(item["weight"] is None for item in first)
    assert all(item["weight"] is not None for item in last)


def test_a_plain_chat_has_no_sources(http):
    assert ask(http)["e2llm"]["sources"] == [[]]
    assert ask(http, sources="measured", citations=True)["e2llm"]["sources"] == [[]]


def test_a_decoder_that_cannot_measure_says_so():
    engine = tiny_engine(decoder=tiny_decoder("mistral", sliding_window=16))
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "documents": [TEXT]}
    with serving(engine) as server, server.http() as http:
        more = {"sources": "measured", "max_tokens": 3}
        answer = http.post("/v1/chat/completions", json={**body, **more})
        assert answer.status_code == 400
        assert "use sources='ranked'" in answer.json()["error"]["message"]
