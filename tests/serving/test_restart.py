"""The command: a server killed at any moment has every context it confirmed when it is started again."""

import os
import re
import signal
import subprocess
import sys
import threading

import httpx2
import pytest

from tiny_models import TEXT, tiny_model, tiny_processor

QUESTION = {"role": "user", "content": "Where is the key?"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model().save_pretrained(folder, self_contained=True)
    tiny_processor().save_pretrained(folder)
    return folder


class Process:
    """`e2llm serve` in a process of its own."""

    def __init__(self, model, folder, *options):
        command = [sys.executable, "-m", "e2llm", "serve", str(model), "--port", "0", "--folder", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if match := re.search(r"at (http://\S+)", line):
                self.http = httpx2.Client(base_url=match.group(1), timeout=60)
                break
        else:
            pytest.fail(f"the server did not start: {self.log}")
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def stop(self, number):
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.http.close()
        return code


def answer(http, context_id, **options):
    body = {"model": "tiny", "messages": [QUESTION], "context_ids": [context_id], "max_tokens": 12, **options}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_contexts_outlive_a_kill_and_are_not_read_again(model_folder, tmp_path):
    first = Process(model_folder, tmp_path / "kept")
    made = first.http.post("/v1/contexts", json={"text": TEXT, "name": "harbour"}).json()
    edited = first.http.post(f"/v1/contexts/{made['id']}/documents", json={"text": "A letter came."}).json()
    gone = first.http.post("/v1/contexts", json={"text": "Soon gone."}).json()
    first.http.delete(f"/v1/contexts/{gone['id']}")
    before = answer(first.http, made["id"], expand=1)
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    second = Process(model_folder, tmp_path / "kept")
    listed = second.http.get("/v1/contexts").json()["data"]
    assert [(item["id"], item["version"]) for item in listed] == [(made["id"], 2)]
    got = second.http.get(f"/v1/contexts/{made['id']}").json()
    assert got["context_tokens"] == edited["context_tokens"]
    assert answer(second.http, made["id"], expand=1) == before
    assert "e2llm_chunks_encoded_total 0.0" in second.http.get("/metrics").text
    again = second.http.post("/v1/contexts", json={"text": TEXT}).json()
    assert again["encoded_chunks"] == 0
    assert second.stop(signal.SIGTERM) == 0
    assert "Traceback" not in "".join(second.log)


def test_a_kill_while_contexts_are_made_leaves_whole_ones(model_folder, tmp_path):
    server = Process(model_folder, tmp_path / "kept")
    confirmed = []

    def make():
        try:
            while True:
                text = f"{TEXT} Number {len(confirmed)}."
                confirmed.append(server.http.post("/v1/contexts", json={"text": text}).json()["id"])
        except httpx2.HTTPError:
            return

    making = threading.Thread(target=make)
    making.start()
    while len(confirmed) < 5:
        making.join(0.01)
    server.process.kill()
    making.join(60)
    server.process.wait(60)
    after = Process(model_folder, tmp_path / "kept")
    listed = [item["id"] for item in after.http.get("/v1/contexts").json()["data"]]
    assert set(confirmed) <= set(listed)
    assert len(listed) <= len(confirmed) + 1  # one may have been written and not told of
    for context_id in listed:
        assert answer(after.http, context_id)
    after.stop(signal.SIGTERM)


def test_a_stream_is_finished_after_sigterm(model_folder, tmp_path):
    server = Process(model_folder, tmp_path / "kept")
    body = {"model": "tiny", "messages": [QUESTION], "max_tokens": 200, "stream": True}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        first = next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert first.startswith("data: {")
    assert "data: [DONE]" in rest
    assert server.process.wait(60) == 0


def test_a_server_that_is_interrupted_ends_well_although_a_request_is_running(model_folder, tmp_path):
    server = Process(model_folder, tmp_path / "kept", "--set", "shutdown_seconds=0")
    body = {"model": "tiny", "messages": [QUESTION], "max_tokens": 480, "min_tokens": 480, "stream": True}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert server.process.wait(60) == 0
    assert "Traceback" not in "".join(server.log)
