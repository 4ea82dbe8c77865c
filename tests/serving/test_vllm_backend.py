"""Decoding by vLLM, held against decoding here; vLLM is a stand-in that checks requests as it does."""

import json

import pytest

from tiny_models import TEXT
from vllm_served import CHATS, HISTORY, QUESTION, TEMPLATES, chat_body, local, parts_of, rows_of, text_of


@pytest.mark.parametrize("format", TEMPLATES)
@pytest.mark.parametrize("name", CHATS)
def test_what_vllm_answers_is_what_is_answered_here(serve, format, name):
    served, client = serve(format)
    answer = served.chat(client, **CHATS[name]).json()
    expected = local(format, "/v1/chat/completions", chat_body(**CHATS[name]))
    assert text_of(answer) == text_of(expected)
    assert text_of(answer) != [""]
    assert answer["usage"] == expected["usage"]
    assert answer["choices"][0]["finish_reason"] == expected["choices"][0]["finish_reason"]


@pytest.mark.parametrize("format", TEMPLATES)
def test_the_answers_differ_by_context_and_template(serve, format):
    served, client = serve(format)
    texts = {text_of(served.chat(client, **body).json())[0] for body in CHATS.values()}
    assert len(texts) == len(CHATS)


def test_a_run_of_soft_chunks_is_one_part_before_the_question(serve):
    served, client = serve("openai")
    served.chat(client, documents=[TEXT], soft_tokens=2)
    (body,) = served.upstream.requests
    rows, text = body["messages"][0]["content"]
    assert (text["type"], text["text"]) == ("text", "\n\n" + QUESTION)
    assert (rows["type"], rows_of(rows).shape) == ("prompt_embeds", (10, 32))
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_expanded_chunks_are_text_between_the_runs(serve):
    served, client = serve("openai")
    served.chat(client, documents=[TEXT], expand=[2], soft_tokens=2)
    (body,) = served.upstream.requests
    assert parts_of(body) == ["prompt_embeds", "text", "prompt_embeds", "text"]
    before, _, after, _ = body["messages"][0]["content"]
    assert (len(rows_of(before)), len(rows_of(after))) == (4, 4)


def test_earlier_turns_are_messages_and_the_context_is_in_the_first(serve):
    served, client = serve("openai")
    served.chat(client, documents=[TEXT], messages=HISTORY)
    first, answer, question = served.upstream.requests[0]["messages"]
    assert first["content"][1]["text"] == "\n\nBe brief.\n\nHow many boats?"
    assert answer == {"role": "assistant", "content": "Seven."}
    assert question == {"role": "user", "content": QUESTION}


def test_a_template_that_takes_strings_gets_its_line_break_from_vllm(serve):
    served, client = serve("string")
    served.chat(client, documents=[TEXT])
    (body,) = served.upstream.requests
    assert body["messages"][0]["content"][1]["text"] == "\n" + QUESTION


@pytest.mark.parametrize(
    ("format", "name"),
    [("string", "expanded"), ("openai", "control token"), ("openai", "reserved text")],
)
def test_what_vllm_would_read_otherwise_goes_as_embeddings_or_ids(serve, format, name):
    served, client = serve(format)
    served.chat(client, **CHATS[name])
    assert served.upstream.paths == ["/v1/completions"]
    assert {"messages", "text"}.isdisjoint(served.upstream.requests[0])


COMPLETIONS = {
    "text": {"prompt": "The harbour lights"},
    "texts": {"prompt": ["The harbour lights", "Mira counted"]},
    "control token": {"prompt": "The harbour</s> lights"},
    "documents": {"prompt": "The key was", "documents": [TEXT]},
    "expanded": {"prompt": "The key was", "documents": [TEXT], "expand": [3]},
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_text_is_gone_on_with_as_it_is_here(serve, name):
    _, client = serve()
    body = {"model": "smol", "max_tokens": 8, **COMPLETIONS[name]}
    answer = client.post("/v1/completions", json=body).json()
    expected = local("openai", "/v1/completions", body)
    assert text_of(answer) == text_of(expected)
    assert answer["usage"] == expected["usage"]


def test_a_text_without_a_context_goes_as_text(serve):
    served, client = serve()
    client.post("/v1/completions", json={"model": "smol", "max_tokens": 3, "prompt": "The harbour"})
    assert served.upstream.requests[0]["prompt"] == "The harbour"
    assert served.upstream.requests[0]["max_tokens"] == 3


def test_the_pieces_of_a_stream_joined_are_the_answer(serve):
    served, client = serve()
    whole = text_of(served.chat(client, documents=[TEXT]).json())[0]
    response = served.chat(client, documents=[TEXT], stream=True, stream_options={"include_usage": True})
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    read = [json.loads(item) for item in events[:-1]]
    pieces = [choice["delta"].get("content", "") for item in read for choice in item["choices"]]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 1
    assert read[-1]["usage"]["completion_tokens"] == 12


def test_white_space_around_an_answer_is_left_out(serve):
    served, client = serve()
    served.upstream.trouble = "spaces"
    assert text_of(served.chat(client).json()) == ["a b"]


@pytest.mark.parametrize("max_tokens", range(1, 9, 2))
def test_white_space_around_an_answer_is_left_out_as_here(serve, max_tokens):
    served, client = serve()
    body = {"documents": [TEXT * 2], "max_tokens": max_tokens}
    expected = local("openai", "/v1/chat/completions", chat_body(**body))
    assert text_of(served.chat(client, **body).json()) == text_of(expected)


def test_a_stop_text_ends_an_answer(serve):
    served, client = serve()
    whole = text_of(served.chat(client, documents=[TEXT]).json())[0]
    answer = served.chat(client, documents=[TEXT], stop=[whole[4:6]]).json()
    assert text_of(answer) == [whole[: whole.index(whole[4:6])]]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert text_of(answer) == text_of(
        local("openai", "/v1/chat/completions", chat_body(documents=[TEXT], stop=[whole[4:6]]))
    )


def test_how_tokens_are_chosen_is_passed_on_and_defaults_of_the_folder_are_not_used(serve):
    served, client = serve()
    served.chat(client, temperature=0.5, top_p=0.9, seed=7, stop=["x", "y"])
    body = served.upstream.requests[0]
    assert {name: body[name] for name in ("temperature", "top_p", "seed", "stop")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["x", "y"],
    }
    neutral = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
    assert {name: body[name] for name in neutral} == neutral
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert (body["logit_bias"], body["stop_token_ids"]) == ({"319": -100}, [2])


def test_several_answers_are_requests_of_their_own_at_the_same_time(serve):
    served, client = serve(timeout_seconds=60)
    served.upstream.trouble = "meet"  # each waits for the other
    answer = served.chat(client, n=2, seed=5, documents=[TEXT]).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert sorted(body["seed"] for body in served.upstream.requests) == [5, 6]
    assert [body["n"] for body in served.upstream.requests] == [1, 1]
    assert answer["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_are_refused_with_the_reason(serve, name):
    served, client = serve()
    response = served.chat(client, **{name: 0.5})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_value")
    assert "vLLM, whose engine may die of penalties" in error["message"]
    assert served.upstream.requests == []
