"""Rows that are the same every time, and trouble of vLLM."""

import threading

import httpx2
import pytest
import torch

from e2llm.serving.vllm_backend import VllmServer
from tiny_models import TEXT
from vllm_served import (
    QUESTION,
    chat_body,
    rows_of,
)
from vllm_stand_in import running

# --- rows that are the same every time --------------------------------------------------------------------


def test_rows_are_bitwise_equal_between_questions_and_over_a_restart(serve, tmp_path):
    served, client = serve(folder=tmp_path)
    created = client.post("/v1/contexts", json={"text": TEXT}).json()
    sent = []
    for question in (QUESTION, "How many boats?"):
        body = {
            "context_ids": [created["id"]],
            "soft_tokens": 4,
            "messages": [{"role": "user", "content": question}],
        }
        served.chat(client, **body)
        sent.append(served.upstream.requests[-1])
    other, client = serve(folder=tmp_path)
    encoder = other.app.state.e2llm.engine.model.chunk_encoder
    encoder.register_forward_pre_hook(lambda *_: pytest.fail("the encoder read a chunk again"))
    assert other.chat(client, **body).status_code == 200
    sent.append(other.upstream.requests[-1])
    first, *others = [rows_of(item) for item in sent]
    soft = slice(1, 21)  # behind the begin and before the question
    assert all(torch.equal(rows[soft], first[soft]) for rows in others)
    assert sent[1]["prompt_embeds"] == sent[2]["prompt_embeds"]
    assert sent[0]["prompt_embeds"] != sent[1]["prompt_embeds"]


# --- trouble ----------------------------------------------------------------------------------------------

TROUBLE = {
    400: (502, "backend_refused"),
    401: (502, "backend_refused"),
    404: (502, "backend_refused"),
    429: (503, "backend_busy"),
    500: (502, "backend_error"),
    503: (503, "backend_busy"),
    "moved": (502, "backend_error"),
    "breaks": (502, "backend_error"),
    "error event": (502, "backend_error"),
    "no end": (502, "backend_error"),
    "abort": (502, "backend_error"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_of_vllm_is_told_plainly_and_without_its_inside(serve, trouble):
    served, client = serve()
    served.upstream.trouble = trouble
    response = served.chat(client, documents=[TEXT])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == TROUBLE[trouble]
    described = client.get("/openapi.json").json()["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert str(response.status_code) in described
    assert "secret" not in response.text
    assert served.url.removeprefix("http://") not in response.text
    assert served.backend.num_decoding == 0


def test_trouble_in_a_stream_is_an_event(serve):
    served, client = serve()
    served.upstream.trouble = "breaks"
    events = served.chat(client, documents=[TEXT], stream=True).text
    assert '"code": "backend_error"' in events
    assert events.endswith("data: [DONE]\n\n")


def test_a_vllm_that_is_not_there_is_told_of_without_its_address(serve):
    served, client = serve()
    served.backend.server = VllmServer("http://127.0.0.1:9", "decoder")
    response = served.chat(client)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "backend_unreachable")
    assert response.headers["retry-after"] == "5"
    assert "127.0.0.1" not in response.text


def test_a_vllm_that_says_nothing_is_waited_for_no_longer_than_a_request_may_take(serve):
    served, client = serve(timeout_seconds=1)
    served.upstream.trouble = "silent"
    response = served.chat(client)
    assert (response.status_code, response.json()["error"]["code"]) in (
        (504, "timeout"),
        (504, "backend_timeout"),
    )
    assert served.upstream.left.wait(30)


def test_a_client_that_goes_away_ends_the_request_to_vllm(serve):
    served, _ = serve()
    served.upstream.trouble = "stuck"
    with running(served.app) as url, httpx2.Client(trust_env=False) as client:
        body = chat_body(stream=True)
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()  # kept, since the end of it closes the connection
            assert any("on and" in line for line in lines)
            assert not served.upstream.left.is_set()
        assert served.upstream.left.wait(30)


def test_a_closed_backend_ends_what_is_on_its_way_and_begins_nothing(serve):
    served, client = serve()
    served.upstream.trouble = "silent"
    answers = []
    thread = threading.Thread(target=lambda: answers.append(served.chat(client).status_code))
    thread.start()
    assert served.upstream.arrived.acquire(timeout=30)
    served.backend.close()
    thread.join(30)
    assert answers == [503]
    assert served.chat(client).json()["error"]["code"] == "stopping"
    assert len(served.upstream.requests) == 1


def test_a_prompt_longer_than_vllm_was_started_for_is_the_callers_to_mend(serve):
    served, client = serve(max_model_len=60)
    assert served.chat(client, max_tokens=12).status_code == 200
    response = served.chat(client, max_tokens=50)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert len(served.upstream.requests) == 1
