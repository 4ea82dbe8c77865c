"""At every width of a desk's screen the panel of a chunk leaves the page usable."""

import pytest

from browsing import expect, tab_at

_ON_TOP = """(element) => {
  const box = element.getBoundingClientRect();
  const found = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return element.contains(found);
}"""


def overlap(one, other):
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "width"), ("y", "height"))
    )


@pytest.mark.parametrize("width", [960, 1000, 1150, 1279, 1280, 1300])
def test_an_open_chunk_covers_neither_the_question_nor_its_button(browser, served, context, width):
    with tab_at(browser, served.url, viewport={"width": width, "height": 720}) as tab:
        page = tab.page
        page.goto(f"{served.url}/#{context['id']}")
        expect(page.locator("#contextName")).to_have_text("harbour.txt")
        page.locator("#goForm button").click()
        expect(page.locator("#chunkText")).not_to_be_empty()
        for name in ("#askButton", "#question", "#closeChunk", "#deleteContext"):
            assert page.locator(name).evaluate(_ON_TOP), name
        panel, main = (page.locator(name).bounding_box() for name in ("#chunk", "main"))
        assert not overlap(panel, main)
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        page.locator("#closeChunk").click()
        expect(page.locator("#contexts")).to_be_visible()
