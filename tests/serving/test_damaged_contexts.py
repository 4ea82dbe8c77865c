"""A kept context whose file is damaged can be deleted by the one whose it is."""

import pytest

from served import serving
from tiny_models import TEXT

MINE, THEIRS = "my-own-key-0123456789", "another-key-0123456789"


def damage(served, context_id, content):
    file = served.state.settings.folder / "contexts" / f"{context_id}.json"
    file.write_bytes(content(file.read_bytes()))
    return file


def cut_short(content):
    return content[: len(content) // 2]


def zeroed(content):
    return b"\0" * len(content)


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    from e2llm.serving.keys import hash_key

    keys = (hash_key(MINE), hash_key(THEIRS))
    with serving(folder=tmp_path_factory.mktemp("locked"), api_keys=keys) as served:
        yield served


def made(http):
    return http.post("/v1/contexts", json={"text": TEXT}).json()["id"]


def bearer(key):
    return {"headers": {"Authorization": f"Bearer {key}"}}


@pytest.mark.parametrize("content", [cut_short, zeroed, lambda content: b""])
def test_without_keys_it_is_the_callers(tmp_path, content):
    with serving(folder=tmp_path) as served, served.http() as http:
        context_id = made(http)
        file = damage(served, context_id, content)
        assert http.get(f"/v1/contexts/{context_id}").json()["error"]["code"] == "context_damaged"
        assert http.delete(f"/v1/contexts/{context_id}").status_code == 200
        assert not file.exists()
        assert http.delete(f"/v1/contexts/{context_id}").status_code == 404


def test_with_keys_it_is_his_whom_its_beginning_names(locked):
    with locked.http(**bearer(MINE)) as mine, locked.http(**bearer(THEIRS)) as theirs:
        context_id = made(mine)
        file = damage(locked, context_id, cut_short)
        assert theirs.delete(f"/v1/contexts/{context_id}").status_code == 404
        assert file.exists()
        assert mine.delete(f"/v1/contexts/{context_id}").status_code == 200
        assert not file.exists()


def test_with_keys_one_that_names_nobody_stays(locked):
    with locked.http(**bearer(MINE)) as mine:
        context_id = made(mine)
        file = damage(locked, context_id, zeroed)
        response = mine.delete(f"/v1/contexts/{context_id}")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "context_damaged")
        assert file.exists()


def test_a_text_that_looks_like_an_owner_makes_nobody_one(locked):
    with locked.http(**bearer(MINE)) as mine, locked.http(**bearer(THEIRS)) as theirs:
        owner = locked.state.keys.owner(f"Bearer {THEIRS}")
        context_id = made(mine)
        text = f'{{"format": 1, "id": "{context_id}", "owner": "{owner}", "name": "x"}}'
        damage(locked, context_id, lambda _: b"\0" + text.encode())
        assert theirs.delete(f"/v1/contexts/{context_id}").status_code == 500
