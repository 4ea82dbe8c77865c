"""The rate over HTTP: as the engine answers, in usage and errors."""

import pytest

from e2llm import Engine
from served import MODEL, serving
from tiny_models import TEXT, tiny_pooling_model, tiny_processor

QUESTION = "Where is the key?"
MIXED = [2, "one", 8, 4, 2]


def pooling_engine(trained=True, **options):
    model = tiny_pooling_model(**options) if trained else tiny_pooling_model(trained_on=None, **options)
    return Engine(model, tiny_processor())


@pytest.fixture(scope="module")
def pooled():
    with serving(pooling_engine()) as server, server.http() as http:
        http.context_id = http.post("/v1/contexts", json={"text": TEXT}).json()["id"]
        http.engine = server.state.engine
        yield http


def chat(http, **body):
    return http.post(
        "/v1/chat/completions",
        json={"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, **body},
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 2},
        {"rate": "one"},
        {"rate": MIXED},
        {"rate": MIXED, "expand": [1]},
        {"rate": 8, "expand": 1},
    ],
)
def test_a_chat_at_a_rate_is_answered_as_by_the_engine(pooled, options):
    engine = pooled.engine
    expected = engine.ask(engine.read(TEXT), QUESTION, **{"max_new_tokens": 8, **options})
    answer = chat(pooled, context_ids=[pooled.context_id], **options).json()
    assert answer["choices"][0]["message"]["content"] == expected.text
    usage = answer["usage"]
    for name in ("soft_tokens", "raw_tokens", "soft_tokens_per_chunk", "rate", "note", "compression"):
        assert usage[name] == getattr(expected.usage, name), name


def test_what_the_model_takes_is_told_and_what_it_does_not_is_refused(pooled):
    told = pooled.get("/v1/models").json()["data"][0]["e2llm"]
    assert (told["dial"], told["rates"]) == ("rate", [2, 4, 8, "one"])
    for body, param, words in (
        ({"soft_tokens": 2}, "soft_tokens", "rate is one of 2, 4, 8, one: leave soft_tokens out"),
        ({"rate": 1}, "rate", "rate 1 was given; for this model, rate is one of 2, 4, 8, one: choose"),
        ({"rate": [4, 1, 4, 4, 4]}, "rate", "rate 1 was given"),
        ({"rate": 3}, "rate", "got 3; /v1/models lists the rates of this model"),
        ({"rate": "two"}, "rate", "must be a power of two (1, 2, 4, ...) or 'one', got 'two'; /v1/models"),
        ({"rate": 2.5}, "rate", "got 2.5; /v1/models"),
        ({"rate": [2, "x"]}, "rate", "got 'x'; /v1/models"),
        ({"rate": 10**30}, None, "bits"),
        ({"rate": [2]}, None, "rate has 1 values, but the context has 5 chunks"),
    ):
        response = chat(pooled, context_ids=[pooled.context_id], **body)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), body
        assert words in error["message"], body


def test_fidelity_is_measured_at_a_rate(pooled):
    url = f"/v1/contexts/{pooled.context_id}/fidelity"
    found = pooled.get(url, params={"rate": "8", "count": 2}).json()
    expected = pooled.engine.fidelity(pooled.engine.read(TEXT), rate=8, chunks=[0, 1], progress=False)
    assert (found["rate"], found["soft_tokens"]) == (8, expected.soft_tokens)
    assert [item["score"] for item in found["data"]] == pytest.approx(
        [item.score for item in expected.chunks], abs=1e-4
    )
    assert pooled.get(url, params={"rate": "one"}).json()["rate"] == "one"
    for params, words in (
        ({"rate": "5"}, "got 5; /v1/models lists the rates"),
        ({"rate": "x"}, "got 'x'; /v1/models lists the rates"),
        ({"soft_tokens": 2}, "rate is one of 2, 4, 8, one: leave soft_tokens out"),
    ):
        assert words in pooled.get(url, params=params).json()["error"]["message"]


def test_a_kept_context_is_read_back_with_what_was_kept(tmp_path):
    answers = []
    for start in range(2):
        with serving(pooling_engine(), folder=tmp_path) as server, server.http() as http:
            if not start:
                context_id = http.post("/v1/contexts", json={"text": TEXT}).json()["id"]
            answers.append(chat(http, context_ids=[context_id], rate=MIXED).json())
    assert answers[0]["choices"] == answers[1]["choices"]


@pytest.mark.filterwarnings("ignore:the adapter of this model")
def test_an_untrained_adapter_is_answered_for_by_raw_text_and_says_so():
    engine = pooling_engine(trained=False)
    with serving(engine) as server, server.http() as http:
        assert "not trained" in http.get("/v1/models").json()["data"][0]["e2llm"]["note"]
        usage = chat(http, documents=[TEXT * 12]).json()["usage"]
    assert "not trained" in usage["note"]
    assert (usage["soft_tokens"], usage["rate"]) == (0, None)
    assert usage["chunks_left_out"] > 0
