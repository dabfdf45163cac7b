"""A real browser for the tests of the page: the system's Chromium, headless, without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.page import FLAGS
from tl_circuits.page.document import ASSETS

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
NO_BROWSER = "no Chromium on this machine: apt-get install chromium, or put one on the PATH, to test the page in it"
VIEWER = ASSETS.parent / "viewer"
AXE = VIEWER / "node_modules" / "axe-core" / "axe.min.js"
NO_AXE = f"axe-core is not installed: run `npm ci` in {VIEWER} to check accessibility"


class Watched:
    """A tab that remembers what it asked for and what it complained of."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.requests: list[str] = []
        self.complaints: list[str] = []
        tab.set_default_timeout(20_000)
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def open(self, page: Path, hash: str = "") -> Any:
        """The tab, once it shows a graph."""
        self.tab.goto(page.as_uri() + hash)
        self.tab.wait_for_selector("#search")
        return self.tab

    def work(self) -> dict[str, Any]:
        """What a person did on the page."""
        return self.tab.evaluate("tlCircuitsPage.store.work.value")


class Browser:
    """Tabs, each in a context of its own."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextmanager
    def tab(self, width: int = 1500, height: int = 950, **settings: Any) -> Iterator[Watched]:
        """A tab, closed afterwards. It may have asked for nothing but the page, and complained of nothing."""
        context = self._browser.new_context(viewport={"width": width, "height": height}, offline=True, **settings)
        watched = Watched(context.new_page())
        try:
            yield watched
            foreign = [url for url in watched.requests if not url.startswith(("file:", "blob:", "data:", "about:"))]
            assert not foreign, foreign
            assert sum(url.startswith("file:") for url in watched.requests) <= sum(
                1 for url in watched.requests if url.split("#")[0].endswith(".html")
            )
            assert not watched.complaints, watched.complaints
        finally:
            context.close()


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, as long as the block lasts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
