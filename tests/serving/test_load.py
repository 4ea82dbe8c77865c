"""Under load: a bounded queue, clients that leave, long texts beside short ones, streams at shutdown."""

import asyncio
import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2llm.inference.decoding.batch import DecodingBatch
from e2llm.serving.http.gate import Gate, Metrics
from e2llm.serving.settings import ServerSettings
from served import MODEL, serving, tiny_engine
from tiny_models import TEXT

MESSAGES = [{"role": "user", "content": "Where is the key?"}]


def body(**options):
    return {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, **options}


@pytest.fixture
def held(monkeypatch):
    """An event: while it is clear, decoding waits before its next step."""
    going = threading.Event()
    going.set()
    step = DecodingBatch.step

    def wait_and_step(batch):
        assert going.wait(30)
        return step(batch)

    monkeypatch.setattr(DecodingBatch, "step", wait_and_step)
    yield going
    going.set()


LONG = "".join(f"Boat {number} came home at nine o'clock. " for number in range(600))


def hold_reading(server, monkeypatch):
    """An event without which the reading waits before each round, and the texts of the rounds so far."""
    going, rounds = threading.Event(), []
    read = server.state.reader._inner.read

    def wait_and_read(texts, **options):
        rounds.append(texts)
        assert going.wait(30)
        return read(texts, **options)

    monkeypatch.setattr(server.state.reader._inner, "read", wait_and_read)
    return going, rounds


def wait_until(condition):
    deadline = time.monotonic() + 30
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def test_a_full_queue_says_when_to_come_back(held):
    with serving(max_queue=2) as server, server.http() as http, ThreadPoolExecutor(2) as pool:
        held.clear()
        running = [pool.submit(http.post, "/v1/chat/completions", json=body()) for _ in range(2)]
        wait_until(lambda: server.state.admission.num_requests == 2)
        refused = http.post("/v1/chat/completions", json=body())
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        assert http.get("/health").json()["requests"] == 2
        held.set()
        assert [item.result().status_code for item in running] == [200, 200]
        assert http.post("/v1/chat/completions", json=body()).status_code == 200


def test_requests_at_once_get_the_answers_they_get_alone():
    questions = [f"Where is boat {number}?" for number in range(12)]

    def ask(http, question):
        sent = body(
            messages=[{"role": "user", "content": question}], documents=[TEXT], seed=1, temperature=0.8
        )
        return http.post("/v1/chat/completions", json=sent).json()["choices"][0]["message"]["content"]

    with serving(max_batch=5) as server, server.http() as http:
        alone = [ask(http, question) for question in questions]
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda question: ask(http, question), questions))
    assert together == alone


def send_and_keep(url, data):
    """A connection on which a request was sent."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    content = json.dumps(data).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_work(held, stream):
    with serving() as server:
        held.clear()
        connection = send_and_keep(server.url, body(max_tokens=400, stream=stream))
        wait_until(lambda: server.state.backend.num_decoding == 1)
        connection.close()
        wait_until(lambda: server.state.admission.num_requests == 0)
        held.set()
        wait_until(lambda: server.state.backend.num_decoding == 0)
        with server.http() as http:
            assert http.post("/v1/chat/completions", json=body()).status_code == 200


def test_a_client_that_leaves_stops_the_reading_of_its_text(monkeypatch):
    with serving() as server:
        going, rounds = hold_reading(server, monkeypatch)
        with server.http() as http:
            request = http.build_request("POST", "/v1/contexts", json={"text": LONG, "stream": True})
            response = http.send(request, stream=True)
            wait_until(lambda: len(rounds) == 1)
            response.close()
        wait_until(lambda: server.state.admission.num_requests == 0)
        going.set()
        wait_until(lambda: server.state.reader.num_waiting == 0)
        assert len(rounds) == 1  # the round that ran when the client left
        with server.http() as other:
            assert other.get("/v1/contexts").json()["data"] == []


def test_a_short_text_is_read_beside_a_long_one(monkeypatch):
    with serving() as server, server.http() as http, ThreadPoolExecutor(2) as pool:
        going, rounds = hold_reading(server, monkeypatch)
        long = pool.submit(http.post, "/v1/contexts", json={"text": LONG})
        wait_until(lambda: len(rounds) == 1)
        short = pool.submit(http.post, "/v1/contexts", json={"text": TEXT[:90]})
        wait_until(lambda: server.state.reader.num_waiting == 2)
        going.set()
        assert short.result(60).status_code == 201
        assert long.result(60).status_code == 201
        places = [place for place, texts in enumerate(rounds) if TEXT[:40] in "".join(texts)]
        assert places == [1]  # the next round, beside the long text's chunks
        assert len(rounds) > 10
        assert len(rounds[1]) > 10


def test_a_client_that_takes_its_answer_slowly_keeps_nobody_waiting():
    with serving() as server, server.http() as slow, server.http() as http:
        request = slow.build_request("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=300))
        response = slow.send(request, stream=True)  # and takes nothing of it
        assert http.post("/v1/chat/completions", json=body()).status_code == 200
        lines = list(response.iter_lines())
        assert "data: [DONE]" in lines


def test_a_request_that_takes_too_long_is_ended(held):
    with serving(timeout_seconds=1) as server, server.http() as http:
        held.clear()
        whole = http.post("/v1/chat/completions", json=body())
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "timeout")
        streamed = http.post("/v1/chat/completions", json=body(stream=True))
        last = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")][-1]
        assert last["error"]["code"] == "timeout"
        held.set()
        wait_until(lambda: server.state.backend.num_decoding == 0)
        assert server.state.admission.num_requests == 0


def test_streams_are_finished_when_the_server_stops(held):
    with serving() as server, server.http() as http:
        held.clear()
        request = http.build_request("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=20))
        response = http.send(request, stream=True)
        wait_until(lambda: server.state.backend.num_decoding == 1)
        server.server.should_exit = True
        held.set()
        lines = list(response.iter_lines())
    assert lines[-2] == "data: [DONE]"
    parts = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert parts[-1]["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("stream", [True, False])
def test_requests_that_do_not_end_in_time_are_told_that_the_server_stops(held, caplog, stream):
    with serving(shutdown_seconds=0.1) as server, server.http() as http, ThreadPoolExecutor(1) as pool:
        held.clear()
        running = pool.submit(http.post, "/v1/chat/completions", json=body(stream=stream))
        wait_until(lambda: server.state.backend.num_decoding == 1)
        server.server.should_exit = True
        response = running.result(30)
        held.set()
    parts = [line for line in response.text.splitlines() if line]
    error = json.loads(parts[-2].removeprefix("data: ") if stream else parts[-1])["error"]
    assert error["code"] == "server_stopping"
    assert stream or (response.status_code == 503 and response.headers["retry-after"])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_client_that_takes_nothing_is_left_alone_when_the_server_stops():
    taken = []

    async def stream(scope, receive, send):
        kind = (b"content-type", b"text/event-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        await asyncio.Event().wait()

    async def send(message):
        taken.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def stop():
        scope = {"type": "http", "method": "GET", "headers": []}
        task = asyncio.create_task(Gate(stream, ServerSettings(), Metrics({}))(scope, None, send))
        for count in (1, 2):
            while len(taken) < count:
                await asyncio.sleep(0)
            task.cancel()
        await task

    asyncio.run(stop())
    assert taken == ["http.response.start", "http.response.body"]


def test_a_step_that_fails_ends_its_answers_with_an_error_and_not_the_server(monkeypatch):
    engine = tiny_engine()
    with serving(engine) as server, server.http() as http:
        forward = engine.model.forward

        def fail(*args, **kwargs):
            monkeypatch.setattr(engine.model, "forward", forward)
            raise RuntimeError("out of memory")

        monkeypatch.setattr(engine.model, "forward", fail)
        failed = http.post("/v1/chat/completions", json=body())
        assert failed.status_code == 500
        assert "memory" not in failed.text
        assert http.post("/v1/chat/completions", json=body()).status_code == 200


def test_a_text_that_cannot_be_read_fails_alone(monkeypatch):
    with serving() as server, server.http() as http, ThreadPoolExecutor(3) as pool:
        going, rounds = hold_reading(server, monkeypatch)
        held_read = server.state.reader._inner.read

        def fail(texts, **options):
            result = held_read(texts, **options)
            if any("poison" in text for text in texts):
                raise RuntimeError("the encoder failed")
            return result

        monkeypatch.setattr(server.state.reader._inner, "read", fail)
        first = pool.submit(http.post, "/v1/contexts", json={"text": "Something to wait for."})
        wait_until(lambda: len(rounds) == 1)
        bad = pool.submit(http.post, "/v1/contexts", json={"text": "poison"})
        good = pool.submit(http.post, "/v1/contexts", json={"text": TEXT})
        wait_until(lambda: server.state.reader.num_waiting == 3)
        going.set()
        assert [item.result(60).status_code for item in (first, bad, good)] == [201, 500, 201]
        assert any("poison" in texts and len(texts) > 1 for texts in rounds)
