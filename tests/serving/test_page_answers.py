"""The page at / in a real browser: answers, what they took, and what goes wrong."""

import json

import pytest
import torch

from browsing import QUESTION, answered, ask, expect, tab_at
from e2llm.serving.http.keys import hash_key
from served import MODEL, serving, tiny_engine
from tiny_models import TEXT, tiny_decoder


@pytest.fixture(scope="module")
def served():
    """A server that reads every prompt: how long that takes is shown, and must not depend on other tests."""
    with serving(prefix_cache_mb=0) as server:
        yield server


# --- answers ------------------------------------------------------------------------------------------------


def test_an_answer_streams_in_with_what_it_took(opened, served, context):
    ask(opened)
    answered(opened)
    same = served.openai().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8,
        extra_body={"context_ids": [context["id"]]},  # the page leaves the choice to the server
    )
    usage = same.usage.model_dump()
    expect(opened.locator(".answer")).to_have_text(same.choices[0].message.content)
    expect(opened.locator(".number").first).to_have_text(f"{usage['prompt_tokens']:,}")
    expect(opened.locator(".savings")).to_contain_text(f"instead of {usage['original_tokens']:,}")
    expect(opened.locator(".savings")).to_contain_text("estimate for full context")
    expect(opened.locator("#spoken")).to_contain_text("Answer: ")


def hide(laid, ids, places, cache):
    """Say that every token of the answer needs every chunk, the first most."""
    return torch.tensor([[5.0 / (row + 1)] * len(ids) for row in range(len(places))])


def test_sources_are_listed_with_their_weight_and_open_from_the_answer(opened, client, context, monkeypatch):
    monkeypatch.setattr("e2llm.inference.decoding.sources.hide_chunks", hide)
    plain = opened.locator("#strip").screenshot()
    with opened.expect_request("**/chat/completions") as sent:
        ask(opened)
    answered(opened)
    found = client.post("/v1/chat/completions", json={**sent.value.post_data_json, "stream": False}).json()
    [sources] = found["e2llm"]["sources"]
    expect(opened.locator(".sources h4")).to_have_text("Sources")
    expect(opened.locator(".source")).to_have_count(len(sources))
    for number, source in enumerate(sources, 1):
        item = opened.locator(".sources li").nth(number - 1)
        expect(item.locator(".place")).to_have_text(f"[{number}] harbour.txt, {source['place']}")
        expect(item.locator(".excerpt")).to_have_text(source["text"].strip()[:160])
        expect(item).to_contain_text("Without it, the answer is over 1,000 times less likely.")
    widths = opened.locator(".sources .bar span").evaluate_all("(bars) => bars.map((bar) => bar.clientWidth)")
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]
    opened.locator(".source").first.click()
    expect(opened.locator("#chunkText")).to_have_text(sources[0]["text"])
    value = opened.locator("#strip").get_attribute("aria-valuetext")
    assert value.startswith(f"Chunk {sources[0]['context_chunk'] + 1} of")
    assert value.endswith("source 1 of the last answer")
    expect(opened.locator("#sourceKey")).to_be_visible()
    assert opened.locator("#strip").screenshot() != plain


def test_sources_that_the_answer_hardly_needs_are_called_possible(opened):
    ask(opened)
    answered(opened)
    expect(opened.locator(".sources h4")).to_have_text("Possible sources")
    expect(opened.locator(".sources li").first).to_contain_text("The answer hardly depends on it.")
    expect(opened.locator(".sources .bar")).to_have_count(0)


def test_a_decoder_that_cannot_measure_has_ranked_sources(browser):
    engine = tiny_engine(decoder=tiny_decoder("mistral", sliding_window=16))
    with serving(engine) as server, server.http() as http, tab_at(browser, server.url) as tab:
        context = http.post("/v1/contexts", json={"name": "harbour.txt", "text": TEXT}).json()
        tab.page.goto(f"{tab.url}#{context['id']}")
        expect(tab.page.locator("#contextName")).to_have_text("harbour.txt")
        ask(tab.page)
        answered(tab.page)
        expect(tab.page.locator(".sources li").first).to_contain_text("Given as")
        expect(tab.page.locator(".sources")).not_to_contain_text("depends")
        expect(tab.page.get_by_role("alert")).to_be_empty()


def test_the_strip_shows_what_each_chunk_got(opened, context):
    plain = opened.locator("#strip").screenshot()
    opened.get_by_role("radio", name="Detail").check()
    expect(opened.locator("#lensText")).to_contain_text("Ask a question")
    opened.locator("#expand").fill("1")
    opened.locator("#softTokens").fill("2")
    ask(opened)
    answered(opened)
    expect(opened.locator("#levelKeys .key")).to_have_text(
        ["full text: 1 chunk", f"2 soft tokens: {context['chunks'] - 1} chunks"]
    )
    expect(opened.locator("#unknownKey")).to_be_hidden()
    assert opened.locator("#strip").screenshot() != plain
    opened.locator("#strip").focus()
    given = []
    for _ in range(context["chunks"]):
        given.append(opened.locator("#strip").get_attribute("aria-valuetext").split("given as ")[1])
        opened.keyboard.press("ArrowRight")
    assert sum(text.startswith("full text") for text in given) == 1
    assert sum(text.startswith("2 soft tokens") for text in given) == context["chunks"] - 1
    opened.reload()
    opened.get_by_role("radio", name="Detail").check()
    expect(opened.locator("#levelKeys .key")).to_have_count(2)


def test_turns_that_an_older_page_kept_still_show(opened, context):
    turn = {
        "question": QUESTION,
        "answer": "Under the stone.",
        "state": "done",
        "expanded": [
            {"chunk": 0, "context_id": context["id"], "context_chunk": 0, "document": "harbour.txt"}
        ],
    }
    opened.get_by_role("button", name="New context").click()
    expect(opened.locator("#contextSection")).to_be_hidden()
    key = f"e2llm.talk.{context['id']}"
    opened.evaluate("(item) => sessionStorage.setItem(...item)", [key, json.dumps([turn])])
    opened.go_back()
    expect(opened.locator(".answer")).to_have_text("Under the stone.")
    expect(opened.locator(".source")).to_have_count(0)
    ask(opened, "And the boats?")
    answered(opened, 2)
    expect(opened.locator(".source").first).to_be_visible()


def test_the_sliders_go_into_the_request(opened):
    opened.locator("#softTokens").fill("1")
    opened.locator("#expand").fill("0")
    with opened.expect_request("**/chat/completions") as sent:
        ask(opened)
    answered(opened)
    body = sent.value.post_data_json
    assert (body["soft_tokens"], body["expand"], body["max_tokens"]) == (1, 0, 8)
    expect(opened.locator(".sources li").first).to_contain_text("Given as one soft token.")
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
    expect(page.locator("#turns .cost")).to_contain_text("the middle of this message is compressed")
    page.locator(".source").first.click()
    expect(page.locator("#chunkTitle")).to_have_text("Part of an older message")


def test_the_end_of_an_answer_stays_in_view_until_one_scrolls_up(opened, served, gate, monkeypatch):
    left = """() => {
      const page = document.scrollingElement;
      return page.scrollHeight - page.scrollTop - page.clientHeight;
    }"""
    scroll_up = """() => new Promise((done) => {
      addEventListener("scroll", () => requestAnimationFrame(done), { once: true });
      scrollBy(0, -300);
    })"""
    monkeypatch.setattr(served.state.backend, "answer", gate.two_pieces)
    for number, turns_away in enumerate((False, True), 1):
        ask(opened)
        expect(opened.locator(".answer").last).to_have_text("Under the")
        if turns_away:
            opened.evaluate(scroll_up)
        gate.steps.release()
        answered(opened, number)
        assert (opened.evaluate(left) > 300) == turns_away


def test_stop_ends_the_answer_here_and_on_the_server(opened, served, gate, monkeypatch):
    monkeypatch.setattr(served.state.backend, "answer", gate.answer)
    ask(opened)
    expect(opened.locator(".answer")).to_have_text("Under the")
    opened.get_by_role("button", name="Stop").click()
    expect(opened.locator("#turns .end")).to_have_text("Stopped.")
    expect(opened.locator("#askButton")).to_be_visible()
    assert gate.given_up.wait(10)


def test_starting_over_while_an_answer_comes_leaves_nothing_behind(opened, served, gate, monkeypatch):
    ask(opened)
    answered(opened)
    monkeypatch.setattr(served.state.backend, "answer", gate.answer)
    ask(opened, "And the boats?")
    expect(opened.locator(".answer").last).to_have_text("Under the")
    opened.get_by_role("button", name="Start over").click()
    expect(opened.locator("#turns > li")).to_have_count(0)
    expect(opened.locator("#askButton")).to_be_visible()
    opened.get_by_role("button", name="New context").click()
    expect(opened.locator("#contextSection")).to_be_hidden()
    opened.go_back()
    expect(opened.locator("#contextSection")).to_be_visible()
    expect(opened.locator("#turns > li")).to_have_count(0)


def test_older_messages_that_are_compressed_are_counted(opened):
    for number in range(1, 4):
        ask(opened, f"{number}: {TEXT} {QUESTION}", max_tokens=60)
        answered(opened, number)
    expect(opened.locator("#turns .cost").last).to_contain_text("older messages are compressed")


def test_a_reload_keeps_the_context_and_what_was_said(opened):
    ask(opened)
    answered(opened)
    before = opened.locator("#turns").inner_text()
    opened.reload()
    expect(opened.locator("#contextName")).to_have_text("harbour.txt")
    expect(opened.locator("#turns > li")).to_have_count(1)
    assert opened.locator("#turns").inner_text() == before
    expect(opened.locator("#lensText")).to_contain_text(QUESTION)


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_what_the_server_refuses_is_said_and_the_question_stays(tab, opened):
    tab.allowed.add(400)
    ask(opened, max_tokens=500)
    problem = opened.get_by_role("alert")
    expect(problem).to_contain_text("the input may take")
    expect(opened.locator("#question")).to_have_value(QUESTION)
    expect(opened.locator("#turns > li")).to_have_count(0)
    ask(opened)
    answered(opened)
    expect(problem).to_be_empty()


def test_a_file_that_is_no_text_is_refused_with_the_servers_words(tab, page):
    tab.allowed.add(400)
    page.locator("#files").set_input_files([{"name": "a.bin", "mimeType": "", "buffer": b"a\x00b"}])
    expect(page.get_by_role("alert")).to_contain_text("a.bin: contains zero bytes")
    expect(page.locator("#readForm")).to_be_visible()


def test_a_busy_server_is_told_of_with_the_time_to_try_again(tab, opened, served, monkeypatch):
    tab.allowed.add(429)
    monkeypatch.setattr(served.state.admission, "max_requests", 0)
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
            page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#keySection")).to_be_hidden()
        ask(page)
        answered(page)
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        expect(page.locator("#turns > li")).to_have_count(1)
        page.evaluate("() => sessionStorage.setItem('e2llm.talk.ctx_of_before', '[]')")
        page.get_by_role("button", name="Forget the key").click()
        expect(page.locator("#keySection")).to_be_visible()
        assert page.evaluate("() => sessionStorage.length") == 0
