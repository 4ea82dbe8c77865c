"""Whole requests of finished clients: a first turn, and a second one with the first answer in their idiom."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ParsedChatCompletionMessage

from served import MODEL

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
FIRST = {"role": "user", "content": "Where is the key?"}
NEXT = {"role": "user", "content": "And the box?"}
SAID = {"role": "assistant", "content": "Under the stone."}


def parts(message, **keys):
    return {**message, "content": [{"type": "text", "text": message["content"], **keys}]}


USAGE = {"stream": True, "stream_options": {"include_usage": True}}
LITELLM = {"tool_calls": None, "function_call": None, "provider_specific_fields": {"refusal": None}}
CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
OFF = {"presence_penalty": 0, "frequency_penalty": 0}
# Fields beside `model`, and messages of the second turn.
CLIENTS = {
    "openai-node": ({}, [SYSTEM, FIRST, {**SAID, "refusal": None, "annotations": [], "parsed": None}, NEXT]),
    "langchain": (
        {"n": 1, "stream": False, "temperature": 0.7, "logit_bias": {"50": 0}, "parallel_tool_calls": None},
        [SYSTEM, {**FIRST, "name": None}, {**SAID, "name": None}, NEXT],
    ),
    "langchain with blocks": (
        {"max_completion_tokens": 2, "stream_options": {"include_usage": True}},
        [parts(SYSTEM), parts(FIRST), parts(SAID, annotations=[], id="m1"), {**NEXT, "content": ["And?"]}],
    ),
    "llama-index": ({"temperature": 0.1, "stream": False}, [SYSTEM, FIRST, {**SAID, "tool_calls": []}, NEXT]),
    "litellm": ({"stream": False, "max_tokens": 2, "user": ""}, [SYSTEM, FIRST, {**SAID, **LITELLM}, NEXT]),
    "llm": (USAGE, [SYSTEM, FIRST, SAID, {**SYSTEM, "content": "Be brief."}, NEXT]),
    "open-webui": (
        {**USAGE, "max_completion_tokens": 2, "chat_id": "9f", "features": {"web_search": False}},
        [SYSTEM, FIRST, {**SAID, "reasoning_content": "The stone is blue."}, NEXT],
    ),
    "librechat": (
        {**USAGE, **OFF, "temperature": 1, "top_p": 1, "user": "65f0", "stop": None},
        [SYSTEM, parts(FIRST), parts(SAID), parts(NEXT)],
    ),
    "continue": (
        {**OFF, "stream": True, "temperature": 0, "stop": list("<>[]{}/"), "prediction": None},
        [SYSTEM, FIRST, {"role": "assistant", "content": " ", "tool_calls": [CALL]},
         {"role": "tool", "content": "under the stone", "tool_call_id": "c1"}, SAID, NEXT],
    ),
    "vercel-ai": (
        {"max_tokens": 2, "temperature": 0, "stream": True, "tools": [CALL], "tool_choice": "none"},
        [{**SYSTEM, "role": "developer"}, FIRST, {**SAID, "content": None, "tool_calls": [CALL]},
         {"role": "tool", "tool_call_id": "c1", "content": "under the stone"}, NEXT],
    ),
    "lm-eval": ({"seed": 1234, "temperature": 0, "stop": ["\n\n"]}, [SYSTEM, {**FIRST, "type": "text"}]),
    "codecompanion": ({}, [{**SYSTEM, "id": 7, "cycle": 1, "opts": {"visible": False}}, {**FIRST, "id": 8}]),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("turn", [1, 2])
def test_finished_clients_are_answered(client, name, turn):
    fields, messages = CLIENTS[name]
    body = {"model": MODEL, "max_tokens": 2, **fields, "messages": messages if turn == 2 else messages[:2]}
    if "max_completion_tokens" in fields:
        del body["max_tokens"]
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert ("data: [DONE]" in response.text) == fields.get("stream", False)


def test_legacy_completions_of_clients_are_answered(client):
    body = {
        "model": MODEL,
        "prompt": "The harbour",
        "max_tokens": 2,
        "suffix": None,
        "echo": False,
        "best_of": 1,
    }
    more = {"n": 1, "logprobs": None, "logit_bias": None, "stream": False, "user": None, "stop": ["\n"]}
    assert client.post("/v1/completions", json=body | more).status_code == 200


def as_object(answer):
    return answer.choices[-1].message


IDIOMS = {
    "the object": as_object,
    "model_dump": lambda answer: as_object(answer).model_dump(),
    "to_dict": lambda answer: as_object(answer).to_dict(),
    "its JSON": lambda answer: answer.model_dump(mode="json")["choices"][0]["message"],
    "a parsed object": lambda answer: ParsedChatCompletionMessage(**as_object(answer).model_dump()),
}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    idioms=st.lists(st.sampled_from([*IDIOMS, "the stream", "a completion"]), min_size=1, max_size=3),
    options=st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 3)},
        optional={"n": st.integers(1, 2), "temperature": st.sampled_from([0, 1.5]), "seed": st.just(3)},
    ),
    with_document=st.booleans(),
)
def test_what_the_server_emits_it_accepts_as_history(served, idioms, options, with_document):
    extra = {"extra_body": {"documents": ["Mira counted the boats."]}} if with_document else {}
    with served.openai() as llm:
        create = llm.chat.completions.create
        messages = [FIRST]
        for idiom in idioms:
            request = {"model": MODEL, "messages": messages, **options, **extra}
            if idiom == "the stream":
                deltas = [part.choices[0].delta for part in create(**request, stream=True) if part.choices]
                joined = "".join(delta.content or "" for delta in deltas)
                message = {**deltas[0].model_dump(), "content": joined}
            elif idiom == "a completion":
                text = (
                    llm.completions.create(model=MODEL, prompt="The key", **options, **extra).choices[0].text
                )
                message = {"role": "assistant", "content": text}
            else:
                message = IDIOMS[idiom](create(**request))
            messages = [*messages, message, NEXT]
        assert create(model=MODEL, messages=messages, max_tokens=1, **extra).choices
