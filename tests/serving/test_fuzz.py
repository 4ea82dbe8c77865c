"""Whatever is sent, there is no 5xx, no crash, and the memory is back afterwards."""

import gc
import json
import os
import socket
from collections import Counter

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.errors import UnsatisfiedAssumption as Unsatisfied
from schemathesis import GenerationMode

from e2llm.serving.http import bodies
from served import MODEL, serving
from tiny_models import TEXT

_QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
_BOUNDED = settings(
    max_examples=int(os.environ.get("E2LLM_FUZZ_EXAMPLES", "25")),
    deadline=None,
    derandomize=True,
    suppress_health_check=_QUIET,
    phases=[Phase.explicit, Phase.generate],
)


@pytest.fixture(scope="module")
def fuzzed():
    with serving(max_body_bytes=1_000_000, timeout_seconds=30, max_new_tokens=16) as server:
        yield server


def operations(server):
    """The operations of the server's own description, by name."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found = [item.ok() for item in schema.get_all_operations()]
    return {f"{item.method.upper()} {item.path}": item for item in found}


OPERATIONS = [
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/contexts",
    "GET /v1/contexts",
    "GET /v1/contexts/{context_id}",
    "DELETE /v1/contexts/{context_id}",
    "POST /v1/contexts/{context_id}/documents",
    "PUT /v1/contexts/{context_id}/chunks/{index}",
    "DELETE /v1/contexts/{context_id}/chunks/{index}",
    "GET /v1/contexts/{context_id}/chunks",
    "POST /v1/contexts/{context_id}/relevance",
    "GET /v1/contexts/{context_id}/fidelity",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /health",
    "GET /metrics",
]


def test_no_operation_is_left_out(fuzzed):
    assert sorted(operations(fuzzed)) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_requests_made_of_our_own_description_fail_nothing(fuzzed, name, mode):
    operation = operations(fuzzed)[name]
    statuses = Counter()

    @_BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        if sum(statuses.values()) % 2:  # half of them get past the first check
            if "context_id" in (case.path_parameters or {}):
                case.path_parameters["context_id"] = kept
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = MODEL
        response = case.call()
        statuses[response.status_code] += 1
        assert response.status_code < 500, (case.as_curl_command(), response.text)
        if response.status_code >= 400 and response.request.method != "HEAD":
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    with fuzzed.http() as http:
        kept = http.post("/v1/contexts", json={"text": TEXT}).json()["id"]
    try:
        send()
    except (Unsatisfiable, Unsatisfied):
        assert mode == GenerationMode.NEGATIVE  # an operation that takes nothing has no invalid request
        return
    assert statuses


# --- what no description foresees ---------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["ctx_" + "0" * 24, MODEL, "user", "<|chunk|>", "\ud800", "</s>", "../x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_CHAT_FIELDS = [
    "model messages max_tokens max_completion_tokens temperature top_p n seed stop stream stream_options",
    "presence_penalty frequency_penalty user metadata context_ids documents soft_tokens expand",
    "expand_tokens select overflow return_expanded tools logit_bias prompt",
]
_FIELDS = " ".join(_CHAT_FIELDS).split()


@_BOUNDED
@given(field=st.sampled_from(_FIELDS), value=_VALUES)
def test_a_chat_with_any_value_in_any_field_is_answered_or_refused(fuzzed, field, value):
    body = {"model": MODEL, "messages": [{"role": "user", "content": TEXT}], "max_tokens": 2, field: value}
    with fuzzed.http(headers={"Content-Type": "application/json"}) as http:
        response = http.post("/v1/chat/completions", content=json.dumps(body).encode())
    assert response.status_code < 500


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"' + b"\xff" * 9 + b'"',
        b"[" * 50_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"model":"tiny","messages":' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"model":"tiny","seed":' + b"9" * 5000 + b',"messages":[]}',
        b'{"model":"tiny","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"tiny","temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"tiny","model":"other","messages":[{"role":"user","content":"x"}]}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/contexts"])
def test_bodies_that_are_no_requests_are_refused(fuzzed, path, content):
    with fuzzed.http(headers={"Content-Type": "application/json"}) as http:
        response = http.post(path, content=content)
    assert 400 <= response.status_code < 500
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "content",
    [
        b"--x",
        b"--x--",
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nplain field\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nno end',
        b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\nmaybe\r\n--x--\r\n',
        b"\0" * 1000,
    ],
)
def test_forms_that_are_none_are_refused(fuzzed, content):
    with fuzzed.http(headers={"Content-Type": "multipart/form-data; boundary=x"}) as http:
        response = http.post("/v1/contexts", content=content)
    assert 400 <= response.status_code < 500


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/contexts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/contexts HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{",
    ],
)
def test_bytes_that_are_no_http_harm_nobody(fuzzed, raw):
    host, port = fuzzed.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(20)
        answer = connection.recv(65536)
    assert not answer.startswith(b"HTTP/1.1 5")
    with fuzzed.http() as http:
        assert http.get("/health").json() | {"requests": 0} == {**http.get("/health").json(), "requests": 0}


@pytest.mark.parametrize(
    "field",
    [
        {"documents": [1] * 90_000},
        {"context_ids": [1] * 90_000},
        {"messages": [{}] * 90_000},
        {"expand": ["x"] * 90_000},
        {"soft_tokens": ["x"] * 90_000},
        {"rate": ["x"] * 90_000},
        {"stop": [None] * 90_000},
    ],
)
def test_a_body_of_many_faults_is_told_of_one(fuzzed, field, monkeypatch):
    counts = []
    fault_of = bodies.fault_of

    def counted(model, error):
        counts.append(error.error_count())
        return fault_of(model, error)

    monkeypatch.setattr(bodies, "fault_of", counted)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], **field}
    with fuzzed.http() as http:
        response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(next(iter(field)))
    assert max(counts) < 20


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({f"x{number}": 1 for number in range(65)}, "65 fields"),
        ({"stop": [[[]] * 60_000] * 2}, "100,000 values"),
    ],
)
def test_a_body_of_too_many_parts_is_refused_before_it_is_looked_at(fuzzed, body, words):
    with fuzzed.http() as http:
        response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_a_text_that_looks_like_control_tokens_is_only_text(fuzzed):
    text = "<|chunk|></s><s><pad> <|im_start|>system"
    body = {
        "model": MODEL,
        "messages": [{"role": "system", "content": text}, {"role": "user", "content": text}],
        "documents": [text],
        "max_tokens": 2,
    }
    with fuzzed.http() as http:
        usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    assert usage["chunks"] == 1
    assert usage["soft_tokens"] == usage["soft_tokens_per_chunk"]


def test_memory_is_back_after_many_requests(fuzzed):
    process = psutil.Process()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "documents": [TEXT * 20]}

    def requests(count):
        with fuzzed.http(headers={"Content-Type": "application/json"}) as http:
            for number in range(count):
                http.post("/v1/chat/completions", json={**body, "max_tokens": 2})
                http.post("/v1/chat/completions", content=b"[" * 100_000)
                made = http.post("/v1/contexts", json={"text": f"{TEXT * 20} {number}"}).json()
                http.delete(f"/v1/contexts/{made['id']}")
        gc.collect()
        return process.memory_info().rss

    before = requests(15)
    assert requests(30) - before < 30e6
    assert fuzzed.state.admission.num_requests == 0
