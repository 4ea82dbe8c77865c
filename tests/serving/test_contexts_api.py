"""Contexts over HTTP: made, listed, changed, looked into and deleted; an edit reads only what is new."""

import io
import json
import sys
import zipfile
from email.message import EmailMessage

import pytest

from e2llm.serving import kept_contexts
from e2llm.serving.http import bodies
from served import MODEL
from tiny_models import TEXT

SUBTITLES = "1\n00:00:01,000 --> 00:00:02,000\nOne boat.\n\n2\n00:12:05,000 --> 00:12:07,000\nTwo boats.\n"


def create(client, **body):
    response = client.post("/v1/contexts", json={"text": TEXT, **body})
    assert response.status_code == 201, response.text
    return response.json()


def events(response):
    lines = response.text.splitlines()
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]" or "[DONE]" in response.text
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_a_context_tells_what_it_holds(client, served):
    made = create(client, name="Harbour")
    engine_context = served.state.engine.read(TEXT)
    assert made["name"] == "Harbour"
    assert made["chunks"] == len(engine_context)
    assert made["context_tokens"] == engine_context.num_tokens
    assert made["documents"] == [
        {"index": 0, "name": "Harbour", "characters": len(TEXT), "chunks": made["chunks"]}
    ]
    got = client.get(f"/v1/contexts/{made['id']}").json()
    spans = [(item["start"], item["end"]) for item in got["spans"]]
    assert spans == [(chunk.start, chunk.end) for chunk in engine_context.chunks]
    assert got["version"] == 1


def test_a_context_tells_what_the_encoder_does_not_know_and_a_chunk_size_that_it_cuts(client):
    plain = create(client)
    assert (plain["unknown_fraction"], plain["note"]) == (0, None)
    made = create(client, text=f"{TEXT} ж", chunk_size_chars=2000)
    assert 0 < made["unknown_fraction"] < 0.1
    assert made["note"].startswith("chunks of 2,000 characters were requested, but the encoder reads at most")
    got = client.get(f"/v1/contexts/{made['id']}").json()
    assert got["unknown_fraction"] == made["unknown_fraction"]


def test_chunks_come_with_their_texts_and_join_to_the_document(client):
    made = create(client)
    first = client.get(f"/v1/contexts/{made['id']}/chunks", params={"count": 2}).json()
    rest = client.get(f"/v1/contexts/{made['id']}/chunks", params={"start": 2, "count": 1000}).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert "".join(item["text"] for item in first["data"] + rest["data"]) == TEXT


def test_files_are_read_from_a_form(client):
    files = [
        ("file", ("C:\\notes\\one.txt", TEXT.encode())),
        ("file", ("two.txt", "﻿Größe".encode())),
    ]
    made = client.post("/v1/contexts", files=files, data={"name": "Two", "chunk_size_chars": "64"}).json()
    assert [item["name"] for item in made["documents"]] == ["one.txt", "two.txt"]
    chunks = client.get(f"/v1/contexts/{made['id']}/chunks").json()["data"]
    assert chunks[-1]["text"] == "Größe"
    assert max(len(item["text"]) for item in chunks) > 48


def test_reading_is_told_of_as_it_goes(client):
    text = "".join(f"Boat {number} came home at nine. " for number in range(100))
    response = client.post("/v1/contexts", json={"text": text, "stream": True})
    told = events(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert told[-1]["object"] == "context"
    progress = [item for item in told if item["object"] == "context.progress"]
    assert progress[-1]["chunks_read"] <= progress[-1]["chunks"]
    assert client.get(f"/v1/contexts/{told[-1]['id']}").status_code == 200


def test_an_edited_context_is_that_of_the_edited_text_and_reads_only_what_is_new(client, served):
    made = create(client)
    url = f"/v1/contexts/{made['id']}"
    appended = client.post(f"{url}/documents", json={"text": "A letter came.", "name": "letter"}).json()
    assert (appended["version"], appended["encoded_chunks"]) == (2, 1)
    assert [item["name"] for item in appended["documents"]] == ["text 1", "letter"]
    chunk = client.get(f"{url}/chunks", params={"start": 1, "count": 1}).json()["data"][0]
    replaced = client.put(f"{url}/chunks/1", json={"text": "Nobody came. "}).json()
    assert replaced["version"] == 3
    assert replaced["encoded_chunks"] <= 2
    new_text = TEXT[: chunk["start"]] + "Nobody came. " + TEXT[chunk["end"] :]
    texts = [item["text"] for item in client.get(f"{url}/chunks").json()["data"]]
    assert "".join(texts) == new_text + "A letter came."
    last = replaced["chunks"] - 1
    deleted = client.delete(f"{url}/chunks/{last}").json()
    assert deleted["context_tokens"] == served.state.engine.read(new_text).num_tokens


def test_answers_follow_an_edit(client):
    made = create(client)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Where is the key?"}],
        "context_ids": [made["id"]],
    }
    before = client.post("/v1/chat/completions", json=body).json()["usage"]["context_tokens"]
    client.post(f"/v1/contexts/{made['id']}/documents", json={"text": TEXT})
    after = client.post("/v1/chat/completions", json=body).json()["usage"]["context_tokens"]
    assert after == 2 * before


def test_several_contexts_and_documents_are_joined_in_order(client):
    one, two = create(client, text="Red boats came home."), create(client, text="Blue boats went away.")
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Which?"}],
        "context_ids": [two["id"], one["id"]],
        "documents": ["Green boats sank."],
        "expand": [0, 1, 2],
        "return_expanded": True,
    }
    expanded = client.post("/v1/chat/completions", json=body).json()["e2llm"]["expanded"]
    assert [item["text"] for item in expanded] == [
        "Blue boats went away.",
        "Red boats came home.",
        "Green boats sank.",
    ]
    assert [item["context_id"] for item in expanded] == [two["id"], one["id"], None]
    assert [item["context_chunk"] for item in expanded] == [0, 0, None]


def test_a_deleted_context_is_gone(client):
    made = create(client)
    url = f"/v1/contexts/{made['id']}"
    assert client.delete(url).json() == {"id": made["id"], "object": "context.deleted", "deleted": True}
    for response in (client.get(url), client.delete(url), client.get(f"{url}/chunks")):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "context_not_found"
    assert made["id"] not in [item["id"] for item in client.get("/v1/contexts").json()["data"]]


def test_contexts_of_one_second_are_listed_in_the_order_of_their_creation(client):
    made = [create(client, text=f"Boat {number}.") for number in range(5)]
    listed = client.get("/v1/contexts", params={"limit": 5}).json()["data"]
    assert [item["id"] for item in listed] == [item["id"] for item in reversed(made)]


def test_a_context_without_its_last_chunk_stays_and_takes_new_texts(client, served):
    url = f"/v1/contexts/{create(client, text='One boat.')['id']}"
    emptied = client.delete(f"{url}/chunks/0")
    assert (emptied.status_code, emptied.json()["chunks"]) == (200, 0)
    served.state.contexts._loaded.clear()  # as in another server
    assert client.get(url).json()["spans"] == []
    gone = client.delete(f"{url}/chunks/0")
    assert gone.json()["error"]["message"] == "chunk 0 does not exist; the context has no chunks"
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
    answer = client.post("/v1/chat/completions", json={**ask, "context_ids": [url.rpartition("/")[2]]})
    assert answer.json()["usage"]["context_tokens"] == 0
    names = client.post(f"{url}/documents", json={"documents": ["Two.", "Three."]}).json()["documents"]
    assert [(item["name"], item["chunks"]) for item in names][1:] == [("text 2", 1), ("text 3", 1)]


def test_documents_of_a_context_have_names_of_their_own(client):
    texts = [{"name": name, "text": "One boat."} for name in ("d", "d", "text 1")]
    made = client.post("/v1/contexts", json={"documents": texts}).json()
    assert [item["name"] for item in made["documents"]] == ["d", "d (2)", "text 1"]
    made = client.post(f"/v1/contexts/{made['id']}/documents", json={"documents": texts}).json()
    assert [item["name"] for item in made["documents"]][3:] == ["d (3)", "d (4)", "text 1 (2)"]


def test_contexts_are_listed_page_by_page(client):
    ids = {create(client, text=f"Boat {number}.")["id"] for number in range(3)}
    seen, after = [], None
    while True:
        page = client.get("/v1/contexts", params={"limit": 2, **({"after": after} if after else {})}).json()
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = page["next"]
    assert ids <= set(seen)
    assert len(seen) == len(set(seen))


def test_a_page_begins_where_the_last_one_ended_also_when_that_context_is_gone(client):
    for number in range(4):
        create(client, text=f"Ship {number}.")
    whole = [item["id"] for item in client.get("/v1/contexts", params={"limit": 4}).json()["data"]]
    first = client.get("/v1/contexts", params={"limit": 2}).json()
    client.delete(f"/v1/contexts/{first['data'][-1]['id']}")
    second = client.get("/v1/contexts", params={"limit": 2, "after": first["next"]}).json()
    seen = [item["id"] for item in first["data"] + second["data"]]
    assert seen == whole
    wrong = client.get("/v1/contexts", params={"after": whole[0]})
    assert wrong.status_code == 400
    assert "give the value next of the previous page" in wrong.json()["error"]["message"]


def test_documents_of_a_context_may_be_plain_texts(client):
    made = client.post("/v1/contexts", json={"documents": ["One boat.", {"text": "Two boats."}]}).json()
    assert [item["name"] for item in made["documents"]] == ["text 1", "text 2"]


def test_relevance_is_that_of_the_engine(client, served):
    made = create(client)
    engine = served.state.engine
    for select in ("bm25", "encoder"):
        body = {"question": "Where is the key?", "select": select}
        scores = client.post(f"/v1/contexts/{made['id']}/relevance", json=body).json()["scores"]
        expected = engine.rank(engine.read(TEXT), "Where is the key?", select=select)
        assert scores == pytest.approx(expected, abs=1e-5)


def test_fidelity_comes_in_slices(client, served):
    made = create(client)
    engine = served.state.engine
    expected = engine.fidelity(engine.read(TEXT), soft_tokens=2, progress=False).chunks
    url = f"/v1/contexts/{made['id']}/fidelity"
    first = client.get(url, params={"count": 2, "soft_tokens": 2}).json()
    rest = client.get(url, params={"start": 2, "count": 64, "soft_tokens": 2}).json()
    assert (first["has_more"], rest["has_more"], rest["soft_tokens"]) == (True, False, 2)
    scores = [item["score"] for item in first["data"] + rest["data"]]
    assert scores == pytest.approx([item.score for item in expected], rel=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "give either text or documents"),
        ({"text": "a", "documents": [{"text": "b"}]}, 400, "give either text or documents"),
        ({"text": " "}, 400, "the text is empty"),
        ({"documents": []}, 400, "there is no text"),
        ({"documents": [{"text": "a"}] * 99}, 400, "the most is 64"),
        ({"text": "a", "path": "/etc/passwd"}, 400, "path is unknown"),
        ({"text": "a", "chunk_size_chars": 1}, 400, "chunk_size_chars"),
        ({"text": "\ud800"}, 400, "lone surrogate"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_why(client, body, status, words):
    data = json.dumps(body).encode()
    response = client.post("/v1/contexts", content=data, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xec\xe8\xf0", "x.bin: byte 0 is not valid utf-8, and"),
        (b"a\0b", "x.bin: contains zero bytes, so it is a binary file"),
        (b"", "x.bin: the file is empty"),
    ],
)
def test_a_file_that_is_no_text_is_refused(client, data, words):
    response = client.post("/v1/contexts", files={"file": ("x.bin", data)})
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("size", ["\u00b2", "9" * 5000, "large"])
def test_a_chunk_size_of_a_form_that_is_no_number_is_refused(client, size):
    form = {"chunk_size_chars": size}
    response = client.post("/v1/contexts", files={"file": ("x.txt", b"One.")}, data=form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "chunk_size_chars")


def test_a_file_is_the_same_text_as_for_a_command(client):
    response = client.post("/v1/contexts", files={"file": ("x.txt", b"\xef\xbb\xbfOne.\r\nTwo.\rThree.")})
    chunks = client.get(f"/v1/contexts/{response.json()['id']}/chunks").json()["data"]
    assert "".join(item["text"] for item in chunks) == "One.\nTwo.\nThree."


def test_a_document_is_read_as_its_text_and_keeps_its_places(client, served):
    response = client.post("/v1/contexts", files={"file": ("a.srt", SUBTITLES.encode())})
    id = response.json()["id"]
    chunks = client.get(f"/v1/contexts/{id}/chunks").json()["data"]
    assert "".join(item["text"] for item in chunks) == "One boat.\nTwo boats.\n"
    client.post(f"/v1/contexts/{id}/documents", json={"text": "More."})
    file = served.state.contexts._file(id)
    places = [item.get("places") for item in json.loads(file.read_text())["documents"]]
    assert places == [[[0, "00:00:01"], [10, "00:12:05"]], None]
    _, documents = kept_contexts._read(file)
    assert documents[0].place_at(12) == "00:12:05"


def test_attachments_and_files_of_equal_names_are_documents_with_names_of_their_own(client, served):
    message = EmailMessage()
    message.set_content("One boat.")
    message.add_attachment("<html><p>Two boats.", filename="page")
    files = [("file", (name, data)) for name, data in (("a.eml", message.as_bytes()), *[("n.txt", b"x")] * 2)]
    id = client.post("/v1/contexts", files=files).json()["id"]
    file = served.state.contexts._file(id)
    documents = [(item["name"], item["text"].strip()) for item in json.loads(file.read_text())["documents"]]
    assert documents[1:] == [("a.eml/page.txt", "Two boats."), ("n.txt", "x"), ("n.txt (2)", "x")]


def test_a_format_whose_library_the_server_lacks_is_refused(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "striprtf.striprtf", None)
    response = client.post("/v1/contexts", files={"file": ("a.rtf", rb"{\rtf1 One.}")})
    assert response.status_code == 415
    assert "a.rtf: this server cannot read the format" in response.json()["error"]["message"]


def test_a_file_that_unpacks_to_far_more_than_a_context_is_refused(client, monkeypatch):
    monkeypatch.setattr(bodies, "_UNPACKED_PER_CHAR", 0)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"x" * 1_000_000)
    response = client.post("/v1/contexts", files={"file": ("a.docx", stream.getvalue())})
    assert response.status_code == 400
    assert "a.docx: unpacked, it has more than" in response.json()["error"]["message"]


def test_other_kinds_of_bodies_are_refused(client):
    response = client.post("/v1/contexts", content=b"hello", headers={"Content-Type": "text/plain"})
    assert response.status_code == 415


def test_a_failed_edit_leaves_the_context_as_it_was(client):
    made = create(client, text="One sentence.")
    url = f"/v1/contexts/{made['id']}"
    assert client.put(f"{url}/chunks/7", json={"text": "x"}).status_code == 404
    assert client.get(url).json()["version"] == 1
