"""Who can use the page: without a mouse, on a phone, in the dark, by name and by contrast."""

import io
from itertools import pairwise

import pytest

from browsing import BOOK, expect, tab_at

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
LEAST_CONTRAST = 4.5

# Names as browsers compute them for these kinds of controls; what is hidden needs none.
NAMELESS = """() => {
  const named = (control) =>
    control.getAttribute("aria-label") || control.getAttribute("aria-labelledby") ||
    [...(control.labels ?? [])].some((label) => label.textContent.trim()) ||
    (!control.labels?.length && control.textContent.trim());
  const kinds = "button, input, textarea, select, a, summary, progress, [tabindex='0']";
  return [...document.querySelectorAll(kinds)]
    .filter((control) => control.checkVisibility() && !named(control))
    .map((control) => control.outerHTML);
}"""

# Text whose colour stands out too little from what lies behind it; WCAG's formula.
FAINT = """(least) => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let place = element; place; place = place.parentElement) {
      const colour = parts(getComputedStyle(place).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.matches(":disabled")) continue;
    seen += 1;
    const [one, other] = [parts(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < least) found.push(`${element.tagName} ${texts.currentNode.data.trim()}: ${contrast}`);
  }
  return seen > 20 ? found : [`only ${seen} texts were found`];
}"""


@pytest.fixture(scope="module")
def address(served):
    """Of a context."""
    with served.http() as http:
        made = http.post("/v1/contexts", json={"name": "harbour.txt", "text": BOOK}).json()
    return f"{served.url}/#{made['id']}"


def answered_with_a_chunk_open(tab, address):
    tab.page.goto(address)
    expect(tab.page.locator("#contextName")).to_have_text("harbour.txt")
    tab.page.locator("#question").fill("Where is the key?")
    tab.page.locator("#question").press("Enter")
    expect(tab.page.locator(".savings")).to_be_visible()
    tab.page.get_by_text("More settings").click()
    tab.page.locator(".source").first.click()
    expect(tab.page.locator("#chunk")).to_be_visible()


def tab_to(page, selector):
    """Press Tab until a control has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def test_all_can_be_done_without_a_mouse(browser, served):
    with tab_at(browser, served.url) as tab:
        page = tab.page
        page.goto(served.url)
        expect(page.locator("#modelName")).not_to_be_empty()
        tab_to(page, "#paste")
        page.keyboard.insert_text(f"By keyboard only\n\n{BOOK}")
        tab_to(page, "#readButton")
        page.keyboard.press("Enter")
        expect(page.locator("#contextName")).to_have_text("By keyboard only")
        expect(page.locator("#question")).to_be_focused()
        page.keyboard.type("Where is the key?")
        page.keyboard.press("Enter")
        expect(page.locator(".savings")).to_be_visible()
        page.reload()
        expect(page.locator(".savings")).to_be_visible()
        tab_to(page, "#strip")
        for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowRight"):
            page.keyboard.press(key)
        chunks = int(page.locator("#strip").get_attribute("aria-valuemax"))
        value = page.locator("#strip").get_attribute("aria-valuetext")
        assert value.startswith(f"Chunk {chunks - 1} of {chunks}, By keyboard only, characters ")
        page.keyboard.press("Enter")
        expect(page.locator("#chunkTitle")).to_be_focused()
        expect(page.locator("#chunkTitle")).to_have_text(f"Chunk {chunks - 1} of {chunks}")
        page.keyboard.press("Escape")
        expect(page.locator("#chunk")).to_be_hidden()
        expect(page.locator("#strip")).to_be_focused()
        tab_to(page, ".source")
        page.keyboard.press("Enter")
        expect(page.locator("#chunkText")).not_to_be_empty()


def test_the_focus_is_seen_wherever_it_is(browser, served, address):
    with tab_at(browser, served.url) as tab:
        tab.page.goto(address)
        expect(tab.page.locator("#contextName")).to_have_text("harbour.txt")
        rings = set()
        for _ in range(20):
            tab.page.keyboard.press("Tab")
            rings.add(
                tab.page.evaluate(
                    """() => {
                      const focused = document.activeElement;
                      return focused === document.body ? "3px solid" :
                        ((style) => `${style.outlineWidth} ${style.outlineStyle}`)(getComputedStyle(focused));
                    }"""
                )
            )
        assert rings == {"3px solid"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_stands_out(browser, served, address, theme):
    with tab_at(browser, served.url, color_scheme=theme) as tab:
        answered_with_a_chunk_open(tab, address)
        assert tab.page.evaluate(NAMELESS) == []
        assert tab.page.evaluate(FAINT, LEAST_CONTRAST) == []
        tab.page.goto(f"{served.url}/docs")
        expect(tab.page.locator("article").first).to_be_visible()
        assert tab.page.evaluate(NAMELESS) == []
        assert tab.page.evaluate(FAINT, LEAST_CONTRAST) == []


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, served, address):
    wider = """() => [...document.querySelectorAll("body *")]
      .filter((element) => element.checkVisibility() && !element.closest("pre, .hidden, .skip"))
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
      .map((element) => element.outerHTML)"""
    size = "() => [document.documentElement.scrollWidth, innerWidth]"
    with tab_at(browser, served.url, **PHONE) as tab:
        answered_with_a_chunk_open(tab, address)
        assert tab.page.evaluate(size) == [360, 360]
        assert tab.page.evaluate(wider) == []
        tab.page.goto(f"{served.url}/docs")
        expect(tab.page.locator("article").first).to_be_visible()
        assert tab.page.evaluate(size) == [360, 360]
        assert tab.page.evaluate(wider) == []


def test_the_page_follows_the_theme_and_so_does_the_strip(browser, served, address):
    with tab_at(browser, served.url, color_scheme="light") as tab:
        answered_with_a_chunk_open(tab, address)
        shots = {}
        for theme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=theme)
            tab.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            for name, place in (("page", tab.page), ("strip", tab.page.locator("#strip"))):
                shots[theme, name] = mean_brightness(place.screenshot())
        assert shots["light", "page"] - shots["dark", "page"] > 100
        assert shots["light", "strip"] - shots["dark", "strip"] > 50


def mean_brightness(png):
    pixels = Image.open(io.BytesIO(png)).convert("L").tobytes()
    return sum(pixels) / len(pixels)


def test_colours_go_one_way_in_brightness_in_both_themes(browser, served):
    scale = """async () => {
      const { scaleOf } = await import("/static/page/colours.js");
      const brightness = (colour) => colour.match(/\\d+/g).map(Number)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
      return ["relevance", "fidelity", "detail"].map((name) => {
        const colour = scaleOf(document.body, name);
        return Array.from({ length: 11 }, (_, step) => brightness(colour(step / 10)));
      });
    }"""
    for theme, sign in (("light", -1), ("dark", 1)):
        with tab_at(browser, served.url, color_scheme=theme) as tab:
            tab.page.goto(served.url)
            for steps in tab.page.evaluate(scale):
                assert all(sign * (after - before) > 5 for before, after in pairwise(steps))


def test_events_are_read_however_the_stream_is_cut(browser, served):
    read = """async (text) => {
      const { EventParser } = await import("/static/common/events.js");
      return [...Array(text.length).keys()].map((cut) => {
        const parser = new EventParser();
        return [...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))];
      });
    }"""
    with tab_at(browser, served.url) as tab:
        tab.page.goto(served.url)
        for end in ("\n", "\r\n"):
            lines = [
                "data: one",
                "",
                ": a comment",
                "event: x",
                "data:two",
                "data:  three",
                "",
                "",
                "data: cut",
            ]
            found = tab.page.evaluate(read, end.join(lines))
            assert all(events == ["one", "two\n three"] for events in found)


def test_the_strip_holds_any_number_of_chunks_within_its_width(browser, served):
    lay_out = """async () => {
      const { layOut } = await import("/static/page/strip.js");
      return [1, 7, 41, 133, 1300, 40000].map((count) => ({ count, ...layOut(count, 328) }));
    }"""
    with tab_at(browser, served.url) as tab:
        tab.page.goto(served.url)
        for cells in tab.page.evaluate(lay_out):
            assert cells["perRow"] * cells["width"] <= 328.01
            assert cells["perRow"] * cells["rows"] >= cells["count"] > cells["perRow"] * (cells["rows"] - 1)
            assert cells["width"] >= 4


def test_the_api_page_describes_every_operation_with_its_fields(browser, served):
    with served.http() as http, tab_at(browser, served.url) as tab:
        described = http.get("/openapi.json").json()
        tab.page.goto(f"{served.url}/docs")
        operations = [
            f"{verb.upper()} {path}" for path, verbs in described["paths"].items() for verb in verbs
        ]
        expect(tab.page.locator("article")).to_have_count(len(operations))
        assert sorted(tab.page.locator("article h3").all_inner_texts()) == sorted(operations)
        chat = tab.page.locator("article", has=tab.page.get_by_text("POST /v1/chat/completions", exact=True))
        for name in described["components"]["schemas"]["ChatIn"]["properties"]:
            assert chat.locator("dt code", has_text=name).count() > 0
        expect(chat.locator("pre")).to_contain_text('"model":"tiny"')
        tab.page.get_by_role("link", name="Page").click()
        expect(tab.page.locator("#readForm")).to_be_visible()
