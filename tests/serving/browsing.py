"""A real browser for the tests of the pages, with a watch on what must not happen in it."""

import asyncio
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2llm.serving.backend import AnswerPart
from tiny_models import TEXT

BOOK = "".join(f"Boat {number} came home at {number + 3}. " for number in range(60)) + TEXT
QUESTION = "Where is the key?"
NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 10  # conditions are waited for, so that a fast machine waits less

# Violations are told as events as well as on the console.
_NOTE_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@dataclass
class Tab:
    """A page with what went wrong in it.

    Attributes:
        page: Playwright's.
        url: The server's.
        allowed: Statuses of failing requests that the test expects; 0 for a server that does not answer.
        wrong: Errors on the console, and requests to elsewhere.
    """

    page: Any
    url: str
    allowed: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def on_console(self, message: Any) -> None:
        if message.type not in ("error", "warning"):
            return
        failed = re.match(r"Failed to load resource: (?:.*status of (\d+)|net::)", message.text)
        if failed is None or int(failed[1] or 0) not in self.allowed:
            self.wrong.append(message.text)

    def on_request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.wrong.append(f"request to {request.url}")

    def check(self) -> None:
        assert self.wrong == []
        assert self.page.evaluate("() => window.violations") == []


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = [own] if Path(own).exists() else [path for name in NAMES if (path := shutil.which(name))]
        if not found:
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
        sync_api.expect.set_options(timeout=SECONDS * 1000)
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def tab_at(browser: Any, url: str, **options: Any) -> Iterator[Tab]:
    """A new tab with nothing remembered; at the end nothing may have gone wrong in it."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.add_init_script(_NOTE_VIOLATIONS)
    tab = Tab(page, url)
    page.on("console", tab.on_console)
    page.on("pageerror", lambda error: tab.wrong.append(str(error)))
    page.on("request", tab.on_request)
    try:
        yield tab
        tab.check()
    finally:
        context.close()


def expect(found: Any) -> Any:
    """Playwright's assertions; its tests are skipped where it is missing."""
    return pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect(found)


def ask(page: Any, question: str = QUESTION, max_tokens: int = 8) -> None:
    """Type a question and send it."""
    if not page.locator("#maxTokens").is_visible():
        page.get_by_text("More settings").click()
    page.locator("#maxTokens").fill(str(max_tokens))
    page.locator("#question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def answered(page: Any, number: int = 1) -> None:
    """Wait for the end of the answer to a question, the first or a later one."""
    expect(page.locator("#turns .cost .quiet").last).to_be_visible()
    expect(page.locator("#turns > li")).to_have_count(number)
    expect(page.locator("#askButton")).to_be_visible()


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

    async def answer(self, laid, sampling):
        yield AnswerPart("Under the", 2, queue_seconds=0.0)
        try:
            await asyncio.sleep(30)
        finally:
            self.given_up.set()

    async def two_pieces(self, laid, sampling):
        yield AnswerPart("Under the", 2, queue_seconds=0.0)
        await asyncio.to_thread(self.steps.acquire, timeout=30)
        yield AnswerPart("\nstone" * 60, 3, "stop")
