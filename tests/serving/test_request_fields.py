"""Which fields of a request are obeyed, ignored or refused; one table says so."""

import inspect
import re
from pathlib import Path

import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionMessage,
)
from openai.types.chat import (
    completion_create_params as chats,
)

from e2llm.serving.requests import REQUEST_FIELDS, ChatIn, CompletionIn, MessageIn
from served import MODEL

BODY = {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": "Where is the key?"}]}
PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
OURS = {**ChatIn.model_fields, **CompletionIn.model_fields}
BY_USE = {
    use: [item for item in REQUEST_FIELDS if item.use == use] for use in ("taken", "ignored", "refused")
}


def error_of(response):
    assert response.status_code == 400, response.text
    return response.json()["error"]


def chat(client, **fields):
    return client.post("/v1/chat/completions", json={**BODY, **fields})


def test_the_table_names_each_field_of_the_installed_client():
    kinds = [
        vars(module)[f"CompletionCreateParams{kind}"]
        for module in (chats, completions)
        for kind in ("Base", "Streaming")
    ]
    names = {name for kind in kinds for name in inspect.get_annotations(kind)}
    assert {"messages", "prompt", "web_search_options", "stream"} <= names
    assert names <= {item.name for item in REQUEST_FIELDS}


def test_the_table_and_the_models_agree():
    assert {item.name for item in BY_USE["taken"]} <= set(OURS)
    assert not {item.name for item in BY_USE["ignored"] + BY_USE["refused"]} & set(OURS)


def test_the_page_lists_the_table():
    for use in ("ignored", "refused"):
        (row,) = re.findall(rf"^\| {use}.*$", PAGE, re.MULTILINE)
        assert [item.name for item in BY_USE[use]] == re.findall(r"`(\w+)`", row.split("|")[2]), use


def test_the_description_has_the_table(client):
    described = client.get("/openapi.json").json()["components"]["schemas"]["ChatIn"]["properties"]
    for item in REQUEST_FIELDS:
        if item.use != "taken":
            assert described[item.name] == item.schema


@pytest.mark.parametrize("item", BY_USE["refused"], ids=lambda item: item.name)
def test_a_value_that_asks_for_nothing_is_as_good_as_none_and_others_are_refused_by_name(client, item):
    for value in item.neutral:
        assert chat(client, **{item.name: value}).status_code == 200, value
    error = error_of(chat(client, **{item.name: {"asks": "for something"}}))
    assert (error["param"], error["code"]) == (item.name, "unsupported_parameter")
    assert error["message"] == f"{item.name} is not supported: {item.advice}"


@pytest.mark.parametrize("item", BY_USE["ignored"], ids=lambda item: item.name)
def test_what_does_not_change_the_answer_is_ignored_whatever_it_is(client, item):
    for value in (None, True, "x", {"a": [1]}):
        assert chat(client, **{item.name: value}).status_code == 200, value


def test_one_is_not_true_and_an_empty_search_asks_for_a_search(client):
    assert error_of(chat(client, best_of=True))["param"] == "best_of"
    assert error_of(chat(client, logprobs=0))["param"] == "logprobs"
    assert error_of(chat(client, web_search_options={}))["param"] == "web_search_options"


def test_tools_that_must_not_be_called_are_ignored(client):
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert chat(client, **tools, tool_choice="none").status_code == 200
    assert error_of(chat(client, **tools, tool_choice="auto"))["param"] == "tools"


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_fields_are_ignored_and_the_response_names_them(client, stream):
    response = chat(client, stream=stream, keep_alive="5m", **{"größe": 1}, chat_id=None)
    assert response.status_code == 200
    assert response.headers["x-e2llm-ignored-fields"] == "keep_alive,gr%C3%B6%C3%9Fe"
    assert "x-e2llm-ignored-fields" not in chat(client, user="me", chat_id="").headers


@pytest.mark.parametrize(
    ("name", "meant"),
    [("context_id", "context_ids"), ("max_new_tokens", "max_tokens"), ("temprature", "temperature")],
)
def test_a_misspelled_field_is_refused_with_the_right_name(client, name, meant):
    assert f"rename it to {meant}" in error_of(chat(client, **{name: 1}))["message"]


def test_a_field_of_the_other_address_is_refused(client):
    assert error_of(chat(client, prompt="The key"))["param"] == "prompt"
    body = {"model": MODEL, "prompt": "The key", "max_completion_tokens": 1}
    assert error_of(client.post("/v1/completions", json=body))["param"] == "max_completion_tokens"


# --- messages -----------------------------------------------------------------------------------------------


def test_no_key_of_the_clients_messages_is_refused(client):
    keys = {
        *ChatCompletionMessage.model_fields,
        *inspect.get_annotations(ChatCompletionAssistantMessageParam),
    }
    said = {
        **dict.fromkeys(keys),
        "role": "assistant",
        "content": "Here.",
        "timestamp": 1,
        "cache_control": {},
    }
    assert chat(client, messages=[*BODY["messages"], said, *BODY["messages"]]).status_code == 200


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            {"content": [{"type": "text", "text": "a"}, "b", {"type": "output_text", "text": "c"}]},
            "a\n\nb\n\nc",
        ),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]}, "a"),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": "", "audio": {"id": "a", "transcript": "Here."}}, "Here."),
        ({"content": "Here.", "audio": {"id": "a"}}, "Here."),
        ({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, "[call of f: {}]"),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}, "[call of f: x]"),
        (
            {"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1}}}]},
            'a\n\n[call of f: {"b": 1}]',
        ),
        ({"tool_calls": [{"id": 3}]}, '[call: {"id": 3}]'),
        ({}, ""),
    ],
)
def test_messages_are_taken_as_text(message, text):
    assert MessageIn.model_validate({"role": "assistant", **message}).text == text


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            {"content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
            "part 0 is of type 'image_url'",
        ),
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "file", "file": {}}]},
            "part 1 is of type 'file'",
        ),
        ({"content": [{"type": "text", "text": {"value": "a"}}]}, "part 0: text must be a string"),
        ({"content": [7]}, "part 0 must be a text or an object"),
        ({"content": "What is it?", "images": ["iVBO"]}, "images are not supported"),
        ({"content": "What is it?", "attachments": [{"id": "a"}]}, "attachments are not supported"),
        ({"content": "What is it?", "files": ["a.pdf"]}, "send files to /v1/contexts"),
        ({"role": "assistant", "audio": {"id": "a"}}, "send a transcript"),
        ({"role": "narrator", "content": "a"}, "messages.0.role"),
        ({"content": {"text": "a"}}, "messages.0.content"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(client, message, words):
    error = error_of(chat(client, messages=[{"role": "user", **message}, *BODY["messages"]]))
    assert words in error["message"]
    assert error["param"].startswith("messages.0")


# --- bodies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "param", "words"),
    [
        (b'{"model":"tiny","model":"x","messages":[]}', "model", "'model' twice"),
        (
            b'{"model":"tiny","messages":[{"role":"user","content":"a","content":"b"}]}',
            "content",
            "give it once",
        ),
        (
            b'{"model":"tiny","messages":[{"role":"user","content":"a\\u0000b"}]}',
            "messages",
            "character 1 is zero",
        ),
        (b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}', "messages", "lone surrogate"),
        (b'{"model":"tiny","temperature":NaN}', None, "NaN is not a number"),
        (b"\xff", None, "not valid JSON"),
    ],
)
def test_a_body_that_could_be_read_in_two_ways_or_is_no_text_is_refused(client, content, param, words):
    response = client.post(
        "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
    )
    error = error_of(response)
    assert words in error["message"]
    assert error["param"] == param


def test_the_same_holds_for_contexts(client):
    headers = {"Content-Type": "application/json"}
    for content in (b'{"text":"a","text":"b"}', b'{"text":"a\\u0000"}'):
        error = error_of(client.post("/v1/contexts", content=content, headers=headers))
        assert error["param"] == "text"


def test_texts_that_cannot_fit_the_requested_level_are_refused_before_they_are_read(served, monkeypatch):
    read = []
    monkeypatch.setattr(served.state.preparer, "_read", lambda *_: read.append(1))
    text = "Where is the key? " + "harbour " * 100_000
    with served.http() as client:
        for fields in ({"messages": [{"role": "user", "content": text}]}, {"documents": [text]}):
            for words in (text, text[:30_000]):
                cut = {
                    name: [words] if name == "documents" else [{**value[0], "content": words}]
                    for name, value in fields.items()
                }
                assert error_of(chat(client, soft_tokens=2, **cut))["code"] == "context_length_exceeded"
    assert not read


def test_more_characters_than_a_context_may_have_are_refused_uncounted(served, monkeypatch):
    monkeypatch.setattr(type(served.state.engine), "count_tokens", None)
    text = "a" * (served.state.settings.max_context_chars + 1)
    with served.http() as client:
        response = chat(client, messages=[{"role": "user", "content": text}])
    assert (response.status_code, response.json()["error"]["param"]) == (413, "messages")
