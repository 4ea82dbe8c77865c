"""Who is let in: keys, names, pages from elsewhere, sizes; and what nobody is told."""

import hashlib
import logging
import socket

import httpx2
import pytest

from e2llm.errors import E2LLMError
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.http.keys import KeyRing, hash_key, key_line, new_key, read_key_file
from e2llm.serving.settings import ServerSettings
from served import MODEL, serving
from tiny_models import TEXT

ONE, TWO = "one-key-of-sixteen-or-more", "two-key-of-sixteen-or-more"
MESSAGES = [{"role": "user", "content": "Where is the key?"}]


@pytest.fixture(scope="module")
def locked():
    origins = ("https://app.example", "app://obsidian.md")
    settings = {"allowed_hosts": ("127.0.0.1", "llm.example"), "cors_origins": origins}
    with serving(api_keys=(hash_key(ONE), hash_key(TWO)), max_body_bytes=50_000, **settings) as server:
        yield server


def by(server, key):
    return server.http(headers={"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer wrong-key-of-sixteen"}, {"Authorization": ONE}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/contexts"),
        ("POST", "/v1/contexts"),
        ("POST", "/v1/chat/completions"),
        ("GET", f"/v1/contexts/ctx_{'0' * 24}"),
        ("DELETE", f"/v1/contexts/ctx_{'0' * 24}"),
        ("GET", "/metrics"),
    ],
)
def test_without_the_key_nothing_is_told(locked, method, path, header):
    with locked.http(headers=header) as http:
        response = http.request(method, path)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_health_and_the_page_need_no_key(locked):
    with locked.http() as http:
        assert http.get("/health").json()["status"] == "ok"
        assert http.get("/").status_code == 200


def test_contexts_belong_to_their_key(locked):
    with by(locked, ONE) as one, by(locked, TWO) as two:
        made = one.post("/v1/contexts", json={"text": TEXT}).json()
        url = f"/v1/contexts/{made['id']}"
        assert one.get(url).status_code == 200
        assert two.get("/v1/contexts").json()["data"] == []
        chat = {"model": MODEL, "messages": MESSAGES, "context_ids": [made["id"]]}
        tries = [
            two.get(url),
            two.delete(url),
            two.get(f"{url}/chunks"),
            two.get(f"{url}/fidelity"),
            two.post(f"{url}/relevance", json={"question": "Where?"}),
            two.post(f"{url}/documents", json={"text": "x"}),
            two.put(f"{url}/chunks/0", json={"text": "x"}),
            two.delete(f"{url}/chunks/0"),
            two.post("/v1/chat/completions", json=chat),
        ]
        absent = two.get(f"/v1/contexts/ctx_{'0' * 24}").json()["error"]
        for response in tries:
            assert response.status_code == 404
            assert response.json()["error"]["message"] == absent["message"].replace(
                "ctx_" + "0" * 24, made["id"]
            )
        assert one.get(url).json()["version"] == 1


def test_the_key_is_nowhere_on_the_disk(locked):
    with by(locked, ONE) as one:
        one.post("/v1/contexts", json={"text": TEXT})
    folder = locked.state.store.path.parent
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert not any(ONE.encode() in file.read_bytes() for file in files)
    assert not any(hash_key(ONE).encode() in file.read_bytes() for file in files)


@pytest.mark.parametrize("size", [60_000, 10_000_000])
def test_a_body_that_is_too_long_is_refused_whether_its_length_is_stated_or_not(locked, size):
    with by(locked, ONE) as one:
        stated = one.post("/v1/contexts", content=b" " * size, headers={"Content-Type": "application/json"})

        def pieces():
            for _ in range(size // 1000):
                yield b" " * 1000

        headers = {"Content-Type": "application/json"}
        try:
            chunked = one.post("/v1/contexts", content=pieces(), headers=headers)
        except httpx2.WriteError:  # the server closed the connection while the rest was sent
            chunked = None
    assert stated.status_code == 413
    assert stated.json()["error"]["code"] == "request_too_large"
    if chunked is not None:
        assert chunked.status_code == 413
        assert chunked.json()["error"]["code"] == "request_too_large"
    elif size < 100_000:
        pytest.fail("a short body must get its answer")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "host_not_allowed"),
        ({"Host": "127.0.0.1.evil.example"}, "host_not_allowed"),
        ({"Host": "[bad"}, "host_not_allowed"),
        ({"Origin": "https://evil.example"}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
        ({"Origin": "https://["}, "origin_not_allowed"),
    ],
)
def test_pages_and_names_from_elsewhere_are_refused(locked, headers, code):
    with by(locked, ONE) as one:
        response = one.get("/v1/models", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (403, code)


@pytest.mark.parametrize("origin", ["https://app.example", "app://obsidian.md"])
def test_a_page_that_is_allowed_may_call_from_elsewhere_and_reads_every_answer(locked, origin):
    page, host, body = {"Origin": origin}, {"Host": "evil.example"}, {"content": b" " * 60_000}
    with by(locked, ONE) as one, locked.http() as nobody:
        answers = [
            one.get("/v1/models", headers=page),
            one.get("/nowhere", headers=page),
            one.post("/v1/contexts", headers=page, **body),  # 413
            one.get("/v1/models", headers={**page, **host}),  # 403
            nobody.get("/v1/models", headers=page),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 413, 403, 401]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == origin
        assert "Origin" in answer.headers["vary"]


def test_the_preflight_of_openais_client_in_a_page_is_allowed(locked):
    wanted = "authorization,content-type,x-stainless-lang,x-stainless-os,x-stainless-retry-count"
    ask = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
        "Access-Control-Request-Private-Network": "true",
    }
    with locked.http() as http:
        allowed = http.options("/v1/chat/completions", headers=ask)
        refused = http.options("/v1/chat/completions", headers={**ask, "Origin": "https://evil.example"})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-headers"] == wanted
    assert allowed.headers["access-control-allow-private-network"] == "true"
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("tauri://localhost", "tauri://localhost"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("vscode-webview://1a2b", "vscode-webview://1a2b"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("HTTPS://App.example:443", "https://app.example"),
        ("https://München.de:8443", "https://xn--mnchen-3ya.de:8443"),
    ],
)
def test_every_origin_that_a_browser_sends_can_be_named(given, sent):
    assert ServerSettings(cors_origins=given).cors_origins == (sent,)


NO_ORIGINS = [
    "null",
    "https://*.example.org",
    "example.org",
    "https:a.org",
    "https://a.org/page",
    "https://user@a.org",
    "https://ü..org",
    "file://",
]


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_what_is_no_origin_or_stands_for_many_is_refused(origin):
    with pytest.raises(E2LLMError, match=r"cors_origins must be origins such as"):
        ServerSettings(cors_origins=(origin,))


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json", "/v1/models", "/v1/contexts"])
def test_head_is_answered_as_get_without_a_body(locked, path):
    with by(locked, ONE) as one:
        got, head = one.get(path), one.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_every_answer_forbids_what_pages_could_do_with_it(locked):
    with locked.http() as http:
        for path in ("/", "/health", "/nowhere"):
            headers = http.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"


def test_no_file_beside_the_pages_is_served(locked):
    with locked.http() as http:
        for name in ("..%2f..%2fkeys.py", "%2e%2e/keys.py", "keys.py", "%00"):
            response = http.get(f"/static/{name}")
            assert response.status_code == 404, name


def test_errors_leak_nothing_of_the_inside(locked, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("secret path /root/model")

    monkeypatch.setattr(locked.state.preparer, "prepare", fail)
    with by(locked, ONE) as one, caplog.at_level(logging.CRITICAL, "e2llm.serving"):
        response = one.post("/v1/chat/completions", json={"model": MODEL, "messages": MESSAGES})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text


def test_logs_and_metrics_hold_sizes_and_no_contents(locked, caplog):
    with by(locked, ONE) as one, caplog.at_level(logging.INFO, "e2llm.serving"):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Platypus?"}], "documents": [TEXT]}
        answer = one.post("/v1/chat/completions", json=body).json()
        metrics = one.get("/metrics").text
    assert any("/v1/chat/completions 200" in record.getMessage() for record in caplog.records)
    told = metrics + "".join(record.getMessage() for record in caplog.records)
    for secret in ("Platypus", TEXT[:20], answer["choices"][0]["message"]["content"][:12], ONE):
        assert secret not in told
    assert 'e2llm_requests_total{route="/v1/chat/completions",status="200"}' in metrics
    assert 'e2llm_tokens_total{kind="original"}' in metrics


def send_raw(server, data):
    """A connection on which bytes were sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(20)
    connection.sendall(data)
    return connection


@pytest.mark.parametrize(
    "path", ["chat/completions", "completions", "contexts", f"contexts/ctx_{'0' * 24}/relevance"]
)
def test_without_the_key_no_body_is_waited_for(locked, path):
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with send_raw(locked, f"{head}Content-Length: 1000\r\n\r\n{{".encode()) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_headers_have_a_limit(locked):
    with send_raw(locked, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n") as connection:
        try:
            for _ in range(100):
                connection.sendall(b"X-Long: " + b"a" * 10_000 + b"\r\n")
            answer = connection.recv(100)
        except ConnectionError:
            return
    assert answer.startswith(b"HTTP/1.1 4") or not answer


def test_headers_that_come_at_once_have_the_same_limit(locked):
    with locked.http() as http:
        response = http.get("/health", headers={"X-Long": "a" * 70_000})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "headers_too_large")


def test_who_does_not_send_is_not_waited_for():
    with serving(header_seconds=1, body_seconds=1) as server:
        with send_raw(server, b"GET /health HTTP/1.1\r\nHost: 127") as half, send_raw(server, b"") as silent:
            assert half.recv(100) == b""
            assert silent.recv(100) == b""
        head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        with send_raw(server, head + b"Content-Length: 1000\r\n\r\n{") as slow:
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        with server.http() as http:  # and an answer may take longer than headers
            assert http.get("/health").status_code == 200
            assert http.get("/health").status_code == 200


def test_a_client_that_breaks_off_what_it_sends_is_no_fault_of_the_server(locked, caplog):
    head = f"POST /v1/contexts HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ONE}\r\n"
    with caplog.at_level(logging.INFO, "e2llm.serving"):
        send_raw(
            locked, f"{head}Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{{".encode()
        ).close()
        while not any(" 499," in record.getMessage() for record in caplog.records):
            with locked.http() as http:
                http.get("/health")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("options", [{"cors_origins": ("*",)}, {"allowed_hosts": ("*",)}, {"max_queue": 0}])
def test_settings_that_would_let_anyone_in_are_refused(options):
    with pytest.raises(E2LLMError):
        ServerSettings(**options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_without_an_end_are_refused_before_a_model_is_loaded(value):
    with pytest.raises(E2LLMError, match="shutdown_seconds: input should be"):
        ServerSettings(shutdown_seconds=value)


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_key_file_holds_hashes_and_lets_their_keys_in(tmp_path):
    key = new_key()
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{key_line(key)}  # Ann's\n\n")
    owner = KeyRing(read_key_file(file)).owner(f"Bearer {key}")
    assert owner == hashlib.sha256(key.encode()).hexdigest()[:32]
    assert key not in file.read_text()


@pytest.mark.parametrize("line", ["secret-key-in-the-clear", "sha256:abc", "sha256:" + "x" * 64, "# none"])
def test_a_key_file_with_something_else_is_refused(tmp_path, line):
    file = tmp_path / "keys"
    file.write_text(line)
    with pytest.raises(E2LLMError, match=r"--new-api-key"):
        read_key_file(file)


def test_a_key_file_that_is_no_text_is_refused_by_name(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(E2LLMError, match=r"keys: contains zero bytes, so it is binary"):
        read_key_file(file)


@pytest.mark.parametrize("key", ["short", "with space in the key", "größer-als-sechzehn-zeichen"])
def test_a_key_that_is_weak_or_cannot_be_sent_is_refused(key):
    with pytest.raises(E2LLMError, match=r"16 or more"):
        hash_key(key)


def test_the_comparison_looks_at_every_key(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "e2llm.serving.http.keys.hmac.compare_digest", lambda one, two: compared.append(two) or one == two
    )
    ring = KeyRing([hash_key(ONE), hash_key(TWO)])
    ring.owner(f"Bearer {ONE}")
    with pytest.raises(ApiError):
        ring.owner("Bearer nobody")
    assert compared == [hash_key(ONE), hash_key(TWO)] * 2
