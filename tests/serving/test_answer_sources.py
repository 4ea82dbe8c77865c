"""Sources of a served answer: ranked, measured, cited, and of each of several answers."""

from dataclasses import asdict

import pytest
import torch

from e2llm import Engine
from e2llm.documents import Document
from e2llm.inference.options import AskRequest
from e2llm.serving.backend import AnswerPart, LocalBackend
from served import MODEL, serving, tiny_engine
from tiny_models import TEXT, tiny_decoder, tiny_decoder_tokenizer, tiny_model, tiny_processor

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


TOOL_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if loop.first and tools %}You may call{% for tool in tools %} {{ tool['function']['name'] }}"
    "{% endfor %}. {% endif %}{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


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
        wanted, _ = engine.find_sources(laid, answer["choices"][0]["message"]["content"], "measured")
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

    monkeypatch.setattr("e2llm.inference.decoding.sources.hide_chunks", hide)
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


def test_citations_with_ranked_sources_are_refused(http):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "?"}]}
    answer = http.post("/v1/chat/completions", json={**body, "sources": "ranked", "citations": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "sources")
    assert "citations need sources: measured" in answer.json()["error"]["message"]


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
        assert http.get(f"/v1/models/{MODEL}").json()["e2llm"]["measures_sources"] is False
        more = {"sources": "measured", "max_tokens": 3}
        answer = http.post("/v1/chat/completions", json={**body, **more})
        assert answer.status_code == 400
        assert "use sources='ranked'" in answer.json()["error"]["message"]


# --- more than one round ------------------------------------------------------------------------------------


def test_a_refined_answer_is_that_of_the_library(served, http, context_id):
    options = {"policy": "soft", "budget": 150}
    engine = served.state.engine
    context = engine.read(Document("harbour.txt", TEXT * 3), progress=False)
    first = ask(http, context_ids=[context_id], **options)
    answer = ask(http, context_ids=[context_id], refine=1, **options)
    given = [item["chunk"] for item in answer["e2llm"]["expanded"]]
    assert answer["usage"]["refined"] == len(given) > 0
    again = engine.ask(context, QUESTION, expand=given, overflow="select", max_new_tokens=12, **options)
    assert answer["choices"][0]["message"]["content"] == again.text
    assert (
        answer["usage"]["completion_tokens"] == first["usage"]["completion_tokens"] + again.usage.new_tokens
    )


def test_the_model_calls_tools_before_it_answers(monkeypatch):
    tokenizer = tiny_decoder_tokenizer(TOOL_TEMPLATE)
    model, processor = (
        tiny_model(decoder_tokenizer=tokenizer),
        tiny_processor(decoder_tokenizer=tokenizer),
    )
    said = [
        '{"name": "expand", "arguments": {"chunk": 2}}',
        '{"name": "search", "arguments": {"words": "key"}}',
    ]
    prompts = []

    async def answer(self, laid, sampling):
        prompts.append(processor.tokenizer.decode(laid.sample.input_ids))
        yield AnswerPart(said.pop(0) if said else "Under the stone.", 5, "stop", 0.0)

    monkeypatch.setattr(LocalBackend, "answer", answer)
    with serving(Engine(model, processor)) as server, server.http() as http:
        done = ask(http, documents=[TEXT], tool_calls=2)
    assert done["choices"][0]["message"]["content"] == "Under the stone."
    assert done["usage"]["tool_calls"] == 2
    assert done["usage"]["completion_tokens"] == 15
    assert ["You may call search expand." in prompt for prompt in prompts] == [True, True, False]
    assert "Chunk 2: " in prompts[1].rpartition("<user>")[2]


def test_a_decoder_that_cannot_measure_refines_by_ranked_sources():
    engine = tiny_engine(decoder=tiny_decoder("mistral", sliding_window=16))
    with serving(engine) as server, server.http() as http:
        answer = ask(http, documents=[TEXT * 3], refine=1, policy="soft", budget=150)
    assert answer["usage"]["refined"] > 0


@pytest.mark.parametrize("more", [{"refine": 1, "stream": True}, {"tool_calls": 1, "n": 2}])
def test_rounds_are_for_one_whole_answer(http, more):
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **more}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(more))
