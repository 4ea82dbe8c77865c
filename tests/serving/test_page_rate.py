"""The page at / for models whose dial is the rate."""

import pytest

from browsing import BOOK, answered, ask, expect, tab_at
from e2llm import Engine
from served import MODEL, serving
from tiny_models import TRAINED_ON, tiny_pooling_model, tiny_processor


@pytest.fixture(params=[TRAINED_ON, None], ids=["trained", "untrained"])
def page(request, browser):
    engine = Engine(tiny_pooling_model(trained_on=request.param), tiny_processor())
    with serving(engine) as server, server.http() as http, tab_at(browser, server.url) as tab:
        context = http.post("/v1/contexts", json={"name": "harbour.txt", "text": BOOK}).json()
        tab.page.goto(f"{tab.url}#{context['id']}")
        expect(tab.page.locator("#modelName")).to_have_text(MODEL)
        expect(tab.page.locator("#contextName")).to_have_text("harbour.txt")
        tab.page.is_trained = request.param is not None
        yield tab.page


@pytest.mark.filterwarnings("ignore")
def test_the_slider_turns_the_rate_and_the_answer_says_it(page):
    expect(page.locator("#softTokensLabel")).to_contain_text("rate")
    expect(page.locator("#softTokensShown")).to_have_text("auto")
    expect(page.locator("#softTokens")).to_have_attribute("max", "4" if page.is_trained else "6")
    page.locator("#softTokens").fill("1")
    expect(page.locator("#softTokensShown")).to_have_text("one per chunk")
    expect(page.locator("#positions")).to_contain_text("× 1 =")
    page.locator("#softTokens").fill("3" if page.is_trained else "5")
    expect(page.locator("#softTokensShown")).to_have_text("4")
    page.locator("#expand").fill("0")
    with page.expect_request("**/chat/completions") as sent:
        ask(page)
    answered(page)
    assert sent.value.post_data_json["rate"] == 4
    expect(page.locator("#turns .cost")).to_contain_text("per chunk (rate 4)")
    expect(page.locator(".sources li").first).to_contain_text("Given as a soft token for every 4 tokens.")


@pytest.mark.filterwarnings("ignore")
def test_an_untrained_adapter_is_noted_before_and_beside_the_answer(page):
    note = page.locator("#modelNote")
    if page.is_trained:
        expect(note).to_have_text("")
        return
    expect(note).to_contain_text("not trained yet")
    ask(page)
    answered(page)
    expect(page.locator("#turns .cost")).to_contain_text("not trained yet")
