"""The page at / in a real browser: reading documents, and looking at their chunks."""

from browsing import BOOK, answered, ask, expect

LONG = "".join(f"On day {number} nobody told her where key {number} was.\n" for number in range(60))


# --- reading ------------------------------------------------------------------------------------------------


def test_a_chosen_file_is_read_before_ones_eyes_and_shown_as_chunks(page, served, gate, monkeypatch):
    reader = served.state.reader
    monkeypatch.setattr(reader, "_read_round", gate.reading(reader._read_round))
    file = {"name": "harbour.txt", "mimeType": "text/plain", "buffer": LONG.encode()}
    page.locator("#files").set_input_files([file])
    expect(page.locator("#progressText")).to_contain_text("Read 0 of")
    gate.steps.release()
    expect(page.locator("#progressText")).to_contain_text("Read 32 of")
    expect(page.locator("#progress")).to_have_js_property("value", 32)
    for _ in range(9):
        gate.steps.release()
    expect(page.locator("#contextName")).to_have_text("harbour.txt")
    expect(page.locator("#contextFacts")).to_contain_text(f"{len(LONG):,} characters")
    expect(page.locator("#spoken")).to_contain_text("Read: harbour.txt has")
    expect(page.locator("#contexts [aria-current=true]")).to_contain_text("harbour.txt")


def test_reading_that_is_cancelled_leaves_no_context(page, served, client, gate, monkeypatch):
    reader = served.state.reader
    monkeypatch.setattr(reader, "_read_round", gate.reading(reader._read_round))
    page.locator("#paste").fill(f"Never to be read. {BOOK}")
    page.get_by_role("button", name="Read").click()
    expect(page.locator("#progressText")).to_contain_text("Read 0 of")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#readForm")).to_be_visible()
    expect(page.locator("#spoken")).to_have_text("Reading cancelled.")
    names = [item["name"] for item in client.get("/v1/contexts").json()["data"]]
    assert not any(name.startswith("Never") for name in names)


def test_several_files_that_are_dropped_become_one_context(page):
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          for (const name of ["one.txt", "two.txt"]) data.items.add(new File([`The text of ${name}.`], name));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
    )
    expect(page.locator("#contextFacts")).to_contain_text("2 documents: one.txt, two.txt")


def test_a_file_that_is_dropped_beside_a_context_becomes_one_of_its_own(opened, client, context):
    opened.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["Another text, of another boat."], "other.txt"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
    )
    expect(opened.locator("#contextName")).to_have_text("other.txt")
    assert client.get(f"/v1/contexts/{context['id']}").json()["version"] == 1


def test_a_document_is_added_to_a_context(opened, client, context):
    opened.get_by_role("button", name="Add a document").click()
    expect(opened.locator("#readTitle")).to_have_text("Add to harbour.txt")
    opened.locator("#paste").fill("A letter\n\nThe key has been moved to the blue boat.")
    opened.get_by_role("button", name="Read", exact=True).click()
    expect(opened.locator("#contextFacts")).to_contain_text("2 documents: harbour.txt, A letter")
    assert client.get(f"/v1/contexts/{context['id']}").json()["version"] == 2


def test_a_context_is_deleted_only_when_that_is_confirmed(opened, client, context):
    opened.get_by_role("button", name="Delete").click()
    opened.get_by_role("button", name="Keep it").click()
    assert client.get(f"/v1/contexts/{context['id']}").status_code == 200
    opened.get_by_role("button", name="Delete").click()
    opened.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(opened.locator("#contextSection")).to_be_hidden()
    expect(opened.locator(f"#contexts a[href='#{context['id']}']")).to_have_count(0)
    assert client.get(f"/v1/contexts/{context['id']}").status_code == 404


def test_what_documents_hold_is_never_taken_for_html(page):
    page.locator("#paste").fill("<img src='/x' onerror='alert(1)'><b>bold</b> text, twice <i>over</i>.")
    page.get_by_role("button", name="Read", exact=True).click()
    expect(page.locator("#contextName")).to_contain_text("<img src=")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.locator("#chunkText")).to_contain_text("<img src=")
    ask(page, "<s>Who?</s>")
    answered(page)
    expect(page.locator(".question")).to_have_text("<s>Who?</s>")
    expect(page.locator("img, b, i, s")).to_have_count(0)


# --- chunks -------------------------------------------------------------------------------------------------


def test_typing_a_question_colours_the_strip_by_relevance(opened, client, context):
    plain = opened.locator("#strip").screenshot()
    opened.locator("#question").fill("boats")
    expect(opened.locator("#lensText")).to_contain_text("“boats”")
    asked = {"question": "boats"}
    scores = client.post(f"/v1/contexts/{context['id']}/relevance", json=asked).json()["scores"]
    expect(opened.locator("#notable button").first).to_have_text(f"Chunk {scores.index(max(scores)) + 1}")
    assert opened.locator("#strip").screenshot() != plain


def test_clicking_a_chunk_shows_its_text(opened, client, context):
    box = opened.locator("#strip").bounding_box()
    opened.locator("#strip").click(position={"x": 3, "y": box["height"] / 4})
    chunk = client.get(f"/v1/contexts/{context['id']}/chunks?count=1").json()["data"][0]
    expect(opened.locator("#chunkTitle")).to_have_text(f"Chunk 1 of {context['chunks']}")
    expect(opened.locator("#chunkText")).to_have_text(chunk["text"])
    expect(opened.locator("#chunkPlace")).to_contain_text(f"characters 0 to {chunk['end']}")
    opened.get_by_role("button", name="Next").click()
    expect(opened.locator("#chunkTitle")).to_have_text(f"Chunk 2 of {context['chunks']}")
    opened.get_by_role("button", name="Measure fidelity").click()
    expect(opened.locator("#chunkNumbers")).to_contain_text("Fidelity score")


def test_fidelity_is_measured_when_asked_for_in_slices_and_once_for_each_k(opened, context):
    asked = []
    opened.on("request", lambda request: "/fidelity" in request.url and asked.append(request.url))
    opened.get_by_role("radio", name="Fidelity").check()
    expect(opened.locator("#lensText")).to_contain_text(f"Mean of {context['chunks']} chunks")
    expect(opened.locator("#measureBox")).to_be_hidden()
    assert [url.split("start=")[1].split("&")[0] for url in asked] == [
        str(start) for start in range(0, context["chunks"], 16)
    ]
    count = len(asked)
    opened.get_by_role("radio", name="Relevance").check()
    opened.get_by_role("radio", name="Fidelity").check()
    expect(opened.locator("#lensText")).to_contain_text("Mean of")
    assert len(asked) == count
    opened.locator("#softTokens").fill("1")
    expect(opened.locator("#measureBox")).to_be_hidden()
    expect(opened.locator("#lensText")).to_contain_text(f"Mean of {context['chunks']} chunks")
    assert "soft_tokens=1" in asked[-1]
