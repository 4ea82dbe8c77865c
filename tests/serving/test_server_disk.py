"""What clients are told when the server's disk is full or read-only: no path, and nothing half there."""

import errno
import os

import pytest

from e2llm.errors import StoreError


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/ctx.json"), 507, "disk_full"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/secret/ctx.json"), 500, "internal_error"),
        (StoreError("/secret/store: the disk is full; free some room"), 507, "disk_full"),
        (StoreError("/secret/store: the store cannot be used: readonly"), 500, "store_unusable"),
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


def test_a_damaged_context_is_an_error_of_the_server_and_hides_no_other(client, served):
    damaged, other = (client.post("/v1/contexts", json={"text": "A blue stone."}).json()["id"] for _ in "ab")
    file = next(served.state.store.path.parent.rglob(f"{damaged}.json"))
    file.write_bytes(file.read_bytes()[:40])
    for response in (client.get(f"/v1/contexts/{damaged}"), client.delete(f"/v1/contexts/{damaged}")):
        assert (response.status_code, response.json()["error"]["code"]) == (500, "context_damaged")
    listed = [item["id"] for item in client.get("/v1/contexts").json()["data"]]
    assert other in listed
    assert damaged not in listed
