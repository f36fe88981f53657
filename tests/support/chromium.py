"""Opens pages in an installed headless Chromium, which must find nothing to complain of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESKTOP = (390, 844), (1280, 900)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(NAMES)})")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Iterator[Any]:
    """The page in a window; fails if it logs anything, opens a dialog, or asks for more than itself."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    context.set_default_timeout(10_000)
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url[:200]))
    page.goto(path.as_uri())
    yield page
    assert complaints == []
    assert {url.partition("#")[0] for url in asked if not url.startswith(("data:", "about:"))} == {path.as_uri()}
    context.close()
