"""A headless Chromium that looks at audit pages and notes all that a page must not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright", reason="the browser tests need playwright, of the dev dependencies")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from factory.audit.server import AuditServer

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, NARROW = 1280, 320


def find_chromium() -> str:
    """The path of the system's Chromium; skips the test where there is none, and fails it in CI."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        what = "no chromium on this machine: scripts/chromium.sh installs it where apt can"
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and what it did that no page of ours does."""

    page: Page
    origin: str
    faults: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        self.page.goto(self.origin + path)
        return self.page

    def check(self) -> None:
        """No error on the console, no dialog, no script error, no request to another host."""
        strange = [url for url in self.urls if f"http://{urlsplit(url).netloc}" != self.origin]
        assert [*self.faults, *strange] == []

    def violations(self) -> list[str]:
        """What axe finds, a line each."""
        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]

    def too_wide(self) -> list[str]:
        """The elements that reach beyond the window, where it scrolls sideways."""
        script = """() => document.scrollingElement.scrollWidth <= window.innerWidth ? [] :
            [...document.querySelectorAll("main *")]
            .filter(each => each.getBoundingClientRect().right > window.innerWidth)
            .map(each => each.outerHTML.slice(0, 120))"""
        found: list[str] = self.page.evaluate(script)
        return found


@contextmanager
def watched(
    browser: Browser, server: AuditServer, scheme: str = "light", width: int = WIDE
) -> Iterator[Watched]:
    """A fresh visitor that came in through the printed address; checked at the end."""
    size: ViewportSize = {"width": width, "height": 800}
    context = browser.new_context(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
    page = context.new_page()
    found = Watched(page, f"http://127.0.0.1:{server.port}")
    page.on("console", lambda told: told.type == "error" and found.faults.append(f"console: {told.text}"))
    page.on("pageerror", lambda error: found.faults.append(f"script: {error}"))
    page.on("dialog", lambda dialog: (found.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    context.on("request", lambda request: found.urls.append(request.url))
    page.goto(server.url)
    assert "token" not in page.url
    yield found
    found.check()
    context.close()
