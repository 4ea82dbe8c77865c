import pytest

from browsing import BOOK, Gate, chromium, expect, tab_at
from served import MODEL, serving


@pytest.fixture(scope="module")
def served():
    """One server for a module's tests, which must not depend on each other's contexts."""
    with serving() as server:
        yield server


@pytest.fixture
def client(served):
    with served.http() as http:
        yield http


# --- in a browser -------------------------------------------------------------------------------------------


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
    """The page at the start."""
    tab.page.goto(tab.url)
    expect(tab.page.locator("#modelName")).to_have_text(MODEL)
    return tab.page


@pytest.fixture
def context(client):
    return client.post("/v1/contexts", json={"name": "harbour.txt", "text": BOOK}).json()


@pytest.fixture
def opened(page, context):
    """The page at a context."""
    page.goto(f"{page.url}#{context['id']}")
    expect(page.locator("#contextName")).to_have_text("harbour.txt")
    return page


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    for _ in range(20):
        gate.steps.release()
