import contextlib

import pytest
from starlette.testclient import TestClient

from browsing import BOOK, Gate, chromium, expect, tab_at
from e2llm.modeling.checkpoints.save import save_decoder
from e2llm.serving.settings import ServerSettings
from served import MODEL, serving
from tiny_models import tiny_model
from vllm_served import Served, make_engine
from vllm_stand_in import VllmStandIn, running


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


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """The folder of the exported decoder."""
    engine, folder = make_engine(), tmp_path_factory.mktemp("decoder")
    save_decoder(engine.model, engine.processor.tokenizer, folder)
    return folder


@pytest.fixture
def serve(decoder):
    """Start the stand-in and the application in front of it."""
    with contextlib.ExitStack() as stack:

        def start(max_model_len=512, make=tiny_model, **settings):
            upstream = VllmStandIn(decoder, max_model_len)
            url = stack.enter_context(running(upstream.app))
            served = Served(upstream, url, make_engine(make), ServerSettings(**settings))
            client = stack.enter_context(TestClient(served.app))
            return served, client

        yield start
