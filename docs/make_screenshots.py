"""Take the pictures of the page that the documentation shows.

Serve the embedded model first, then, from the repository's root:

    e2llm serve smol --port 8000
    python docs/make_screenshots.py http://127.0.0.1:8000

They need Pillow, and playwright with a Chromium; `--chromium` names one that is installed.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

BOOK = Path("examples/anne_of_green_gables.txt")
EXCERPT_CHARS = 60_000  # at all eight soft tokens per chunk, the window of the embedded model has room for it
QUESTION = "What did the girl name Barry's pond?"
COLOURS = 256  # of a picture, so that the files stay small
PLOTS = Path("docs/plots")
WIDE = {"viewport": {"width": 1280, "height": 1120}}
PHONE = {"viewport": {"width": 375, "height": 780}, "device_scale_factor": 2, "is_mobile": True}
SHOTS: dict[str, dict[str, Any]] = {
    "page-light.png": {**WIDE, "color_scheme": "light"},
    "page-phone.png": {**PHONE, "color_scheme": "light"},
}


def read_excerpt(page: Any, url: str) -> str:
    """Have the beginning of the book read; returns the address of its context."""
    page.goto(url)
    text = BOOK.read_bytes()[:EXCERPT_CHARS]
    page.locator("#files").set_input_files([{"name": BOOK.name, "mimeType": "text/plain", "buffer": text}])
    page.locator("#contextSection").wait_for(state="visible", timeout=300_000)
    address: str = page.url
    return address


def take(page: Any, address: str, file: Path) -> None:
    """Ask, and take the picture."""
    page.goto(address)
    page.locator("#contextSection").wait_for(state="visible")
    page.locator("#question").fill(QUESTION)
    page.locator("#question").press("Enter")
    page.locator(".savings").wait_for(timeout=300_000)
    if page.viewport_size["width"] > 600:
        page.locator(".source").first.click()
        page.locator("#chunk").wait_for(state="visible")
        page.evaluate("() => scrollTo(0, 0)")
    page.screenshot(path=file)
    picture = Image.open(file).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


def main() -> None:
    """Take all pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="Where the server is.")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="Program of the browser.")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        address = read_excerpt(browser.new_page(), arguments.url)
        for name, options in SHOTS.items():
            context = browser.new_context(**options)
            take(context.new_page(), address, PLOTS / name)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
