"""The page at / in a real browser, against a server with a tiny model."""

import asyncio
import threading

import pytest

from browsing import chromium, tab_at
from e2llm.serving.backends import AnswerPart
from e2llm.serving.keys import hash_key
from served import MODEL, serving
from tiny_models import TEXT

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

BOOK = "".join(f"Boat {number} came home at {number + 3}. " for number in range(60)) + TEXT
LONG = "".join(f"On day {number} nobody told her where key {number} was.\n" for number in range(60))
QUESTION = "Where is the key?"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser, served):
    with tab_at(browser, served.url) as tab:
        yield tab


@pytest.fixture
def page(tab):
    tab.page.goto(tab.url)
    expect(tab.page.locator("#modelName")).to_have_text(MODEL)
    return tab.page


def kept(client, text=BOOK, name="harbour.txt"):
    made = client.post("/v1/contexts", json={"name": name, "text": text})
    return made.json()


@pytest.fixture
def context(client):
    return kept(client)


@pytest.fixture
def opened(page, context):
    page.goto(f"{page.url.split('#')[0]}#{context['id']}")
    expect(page.locator("#contextName")).to_have_text("harbour.txt")
    return page


def ask(page, question=QUESTION, **settings):
    if not page.locator("#maxTokens").is_visible():
        page.get_by_text("More settings").click()
    page.locator("#maxTokens").fill(str(settings.get("max_tokens", 8)))
    page.locator("#question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def answered(page, number=1):
    expect(page.locator("#turns .cost .quiet").last).to_be_visible()
    expect(page.locator("#turns li")).to_have_count(number)
    expect(page.locator("#askButton")).to_be_visible()


def spoken(page):
    return page.locator("#spoken")


class Gate:
    """Lets work through one step at a time."""

    def __init__(self):
        self.steps = threading.Semaphore(0)
        self.given_up = threading.Event()

    def reading(self, read_round):
        def one_round(taken):
            self.steps.acquire(timeout=30)
            read_round(taken)

        return one_round

    async def answer(self, prompts):
        yield AnswerPart(0, "Under the", 2, queue_seconds=0.0)
        try:
            await asyncio.sleep(30)
        finally:
            self.given_up.set()


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    for _ in range(20):
        gate.steps.release()


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
    expect(spoken(page)).to_contain_text("Read: harbour.txt has")
    expect(page.locator("#contexts [aria-current=true]")).to_contain_text("harbour.txt")


def test_reading_that_is_cancelled_leaves_no_context(page, served, client, gate, monkeypatch):
    reader = served.state.reader
    monkeypatch.setattr(reader, "_read_round", gate.reading(reader._read_round))
    page.locator("#paste").fill(f"Never to be read. {BOOK}")
    page.get_by_role("button", name="Read").click()
    expect(page.locator("#progressText")).to_contain_text("Read 0 of")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#readForm")).to_be_visible()
    expect(spoken(page)).to_have_text("Reading cancelled.")
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


# --- answers ------------------------------------------------------------------------------------------------


def test_an_answer_streams_in_with_what_it_took(opened, served, context):
    ask(opened)
    answered(opened)
    same = served.openai().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8,
        extra_body={"context_ids": [context["id"]], "expand": 2},
    )
    usage = same.usage.model_dump()
    expect(opened.locator(".answer")).to_have_text(same.choices[0].message.content)
    expect(opened.locator(".number").first).to_have_text(f"{usage['prompt_tokens']:,}")
    expect(opened.locator(".savings")).to_contain_text(f"instead of {usage['original_tokens']:,}")
    expect(opened.locator(".savings")).to_contain_text("estimate for full context")
    expect(spoken(opened)).to_contain_text("Answer: ")


def test_expanded_chunks_open_from_the_answer_and_are_marked(opened, client, context):
    plain = opened.locator("#strip").screenshot()
    ask(opened)
    answered(opened)
    buttons = opened.locator(".expanded button")
    expect(buttons).to_have_count(2)
    number = int(buttons.first.inner_text().removeprefix("Chunk "))
    chunks = client.get(f"/v1/contexts/{context['id']}/chunks").json()["data"]
    buttons.first.click()
    expect(opened.locator("#chunkText")).to_have_text(chunks[number - 1]["text"])
    value = opened.locator("#strip").get_attribute("aria-valuetext")
    assert value.startswith(f"Chunk {number} of")
    assert value.endswith("given as full text")
    assert opened.locator("#strip").screenshot() != plain


def test_the_sliders_go_into_the_request(opened):
    opened.locator("#softTokens").fill("1")
    opened.locator("#expand").fill("0")
    with opened.expect_request("**/chat/completions") as sent:
        ask(opened)
    answered(opened)
    body = sent.value.post_data_json
    assert (body["soft_tokens"], body["expand"], body["max_tokens"]) == (1, 0, 8)
    expect(opened.locator(".expanded button")).to_have_count(0)
    expect(opened.locator("#turns .cost")).to_contain_text("1 soft token per chunk")


def test_a_conversation_goes_on_with_all_that_was_said(opened):
    ask(opened)
    answered(opened)
    first = opened.locator(".answer").inner_text()
    with opened.expect_request("**/chat/completions") as sent:
        ask(opened, "And the boats?")
    answered(opened, 2)
    said = sent.value.post_data_json["messages"]
    assert [item["content"] for item in said] == [QUESTION, first, "And the boats?"]


def test_without_a_context_a_long_message_is_compressed_and_the_page_says_so(page):
    ask(page, f"{3 * TEXT}\n\n{3 * TEXT}\n\n{QUESTION}")
    answered(page)
    expect(page.locator("#turns .cost")).to_contain_text("1 older message is compressed")
    page.locator(".expanded button").first.click()
    expect(page.locator("#chunkTitle")).to_have_text("Part of an older message")


def test_stop_ends_the_answer_here_and_on_the_server(opened, served, gate, monkeypatch):
    monkeypatch.setattr(served.state.backend, "answer", gate.answer)
    ask(opened)
    expect(opened.locator(".answer")).to_have_text("Under the")
    opened.get_by_role("button", name="Stop").click()
    expect(opened.locator("#turns .end")).to_have_text("Stopped.")
    expect(opened.locator("#askButton")).to_be_visible()
    assert gate.given_up.wait(10)


def test_a_reload_keeps_the_context_and_what_was_said(opened):
    ask(opened)
    answered(opened)
    before = opened.locator("#turns").inner_text()
    opened.reload()
    expect(opened.locator("#contextName")).to_have_text("harbour.txt")
    expect(opened.locator("#turns li")).to_have_count(1)
    assert opened.locator("#turns").inner_text() == before
    expect(opened.locator("#lensText")).to_contain_text(QUESTION)


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_what_the_server_refuses_is_said_and_the_question_stays(tab, opened):
    tab.allowed.add(400)
    ask(opened, max_tokens=500)
    problem = opened.get_by_role("alert")
    expect(problem).to_contain_text("the decoder's window has 512")
    expect(opened.locator("#question")).to_have_value(QUESTION)
    expect(opened.locator("#turns li")).to_have_count(0)
    ask(opened)
    answered(opened)
    expect(problem).to_be_empty()


def test_a_file_that_is_no_text_is_refused_with_the_servers_words(tab, page):
    tab.allowed.add(400)
    page.locator("#files").set_input_files([{"name": "a.bin", "mimeType": "", "buffer": b"\xff\xfe\x00"}])
    expect(page.get_by_role("alert")).to_contain_text("a.bin is no UTF-8 text")
    expect(page.locator("#readForm")).to_be_visible()


def test_a_busy_server_is_told_of_with_the_time_to_try_again(tab, opened, served, monkeypatch):
    tab.allowed.add(429)
    monkeypatch.setattr(served.state.admission, "most", 0)
    ask(opened)
    expect(opened.get_by_role("alert")).to_contain_text("The server is busy")
    expect(opened.get_by_role("alert")).to_contain_text("Try again in 1 s.")


def test_a_server_that_is_gone_is_told_of(tab, opened):
    tab.allowed.add(0)
    opened.context.set_offline(True)
    ask(opened)
    expect(opened.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(opened.locator("#question")).to_have_value(QUESTION)


def test_a_context_that_is_gone_leads_back_to_the_start(tab, page):
    tab.allowed.add(404)
    page.goto(f"{tab.url}/#ctx_{'0' * 24}")
    expect(page.get_by_role("alert")).to_contain_text("there is no context")
    expect(page.locator("#readForm")).to_be_visible()


def test_a_key_is_asked_for_where_one_is_needed_and_kept_in_the_tab_only(browser):
    key = "a-key-for-this-test"
    with serving(api_keys=(hash_key(key),)) as served, tab_at(browser, served.url) as tab:
        tab.allowed.add(401)
        page = tab.page
        page.goto(tab.url)
        for given in ("not-the-key-at-all", key):
            expect(page.locator("#keyProblem")).to_contain_text("the API key is missing or wrong")
            page.get_by_role("textbox", name="API key").fill(given)
            page.get_by_role("button", name="Use it").click()
        expect(page.locator("#keySection")).to_be_hidden()
        ask(page)
        answered(page)
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        expect(page.locator("#modelName")).to_have_text(MODEL)
        page.get_by_role("button", name="Forget the key").click()
        expect(page.locator("#keySection")).to_be_visible()
        expect(page.locator("#turns li")).to_have_count(0)
