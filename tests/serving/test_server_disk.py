"""What clients are told when the server's disk is full or read-only: no path, and nothing half there."""

import errno
import os

import pytest

from e2llm.errors import E2LLMWarning
from served import MODEL, serving


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/ctx.json"), 507, "disk_full"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/secret/ctx.json"), 500, "internal_error"),
    ],
)
def test_a_context_that_cannot_be_written_is_an_error_of_the_server(client, monkeypatch, error, status, code):
    def fail(*args):
        raise error

    before = client.get("/v1/contexts").json()["data"]
    monkeypatch.setattr("e2llm.serving.kept_contexts.write_atomically", fail)
    response = client.post("/v1/contexts", json={"text": "A blue stone."})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "secret" not in response.text
    monkeypatch.undo()
    assert client.get("/v1/contexts").json()["data"] == before
    assert client.post("/v1/contexts", json={"text": "A blue stone."}).status_code == 201


def test_a_full_store_ends_no_answer_and_no_reading(client, served):
    served.state.store.keep({})  # opens it
    served.state.store._database.connection.execute("PRAGMA max_page_count = 1")
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 2}
    texts = {"documents": [f"Boat {number} came home at noon." for number in range(40)]}
    with pytest.warns(E2LLMWarning, match="the disk is full"):
        assert client.post("/v1/chat/completions", json=ask | texts).status_code == 200
    made = client.post("/v1/contexts", json=texts)
    assert made.status_code == 201
    again = client.post("/v1/chat/completions", json=ask | {"context_ids": [made.json()["id"]]})
    assert again.status_code == 200


def test_a_server_with_a_damaged_store_starts_and_answers(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.sqlite").write_bytes(b"no database" * 1000)
    ask = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Where?"}],
        "documents": ["A blue stone."],
    }
    with (
        serving(folder=tmp_path) as server,
        server.http() as http,
        pytest.warns(E2LLMWarning, match=r"is damaged .*Texts are read without the store"),
    ):
        assert http.post("/v1/chat/completions", json={**ask, "max_tokens": 2}).status_code == 200


def test_a_link_without_a_file_is_logged_once(client, served, caplog):
    folder = served.state.store.path.parent
    link = next(folder.rglob("contexts")) / f"ctx_{'a' * 24}.json"
    link.symlink_to(folder / "gone")
    for _ in range(2):
        assert client.get("/v1/contexts").status_code == 200
    link.unlink()
    assert [record.message.split(":")[0] for record in caplog.records].count(str(link)) == 1


def test_a_damaged_context_is_an_error_of_the_server_and_hides_no_other(client, served):
    damaged, other = (client.post("/v1/contexts", json={"text": "A blue stone."}).json()["id"] for _ in "ab")
    file = next(served.state.store.path.parent.rglob(f"{damaged}.json"))
    file.write_bytes(file.read_bytes()[:40])
    for response in (client.get(f"/v1/contexts/{damaged}"), client.delete(f"/v1/contexts/{damaged}")):
        assert (response.status_code, response.json()["error"]["code"]) == (500, "context_damaged")
    listed = [item["id"] for item in client.get("/v1/contexts").json()["data"]]
    assert other in listed
    assert damaged not in listed
