"""The page in a real browser, in front of the real process: ``open_page`` opens it, ``served`` is the server behind it.

Chromium is the machine's own (tests/run installs it); Playwright only drives it. Its loop runs while a module's tests
do, so nothing here may start a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from tests.conftest import find_program
from tests.e2e.conftest import Server, make_server

__all__ = ["make_server"]  # a fixture

OpenPage = Callable[..., Page]
#: Nothing on the page takes longer.
PAGE_MS = 10_000
#: Chromium gives up all that it is loading, from 127.0.0.1 too, when an interface of the machine gets or loses an
#: address, as the bridge of any engine that comes or goes does. No switch keeps it from that
#: (issues.chromium.org/41465264), so it is no fault of the page's: what the page asked for it asks for again, and what
#: it consists of is loaded again here.
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
LOADS_MAX = 5

#: Kept from the page's own scripts: what broke the policy, and what a name would do if it were markup.
WATCH = """
window.broken = [];
document.addEventListener("securitypolicyviolation", (e) => window.broken.push(e.violatedDirective));
"""


@pytest.fixture(scope="session")
def chromium() -> str:
    found = find_program("chromium")
    assert found is not None, "tests that use this fixture are deselected without it"
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory, engine_url: str, label_prefix: str) -> Iterator[Server]:
    server = Server(Path(tmp_path_factory.mktemp("data")), engine_url, label_prefix)
    server.start()
    yield server
    server.close()


@pytest.fixture
def served(module_server: Server) -> Iterator[Server]:
    """The module's server; each test finds it without leases and tickets."""
    yield module_server
    while True:
        status = module_server.http.get("/v1/status").json()
        held = [*status["queue"], *status["leases"]]
        if not held:
            break
        for one in held:
            module_server.http.delete(f"/v1/leases/{one['id']}")


def load(page: Page, url: str) -> None:
    """Open a page with all of its files, or open it anew."""
    given_up: list[str] = []

    def heard(message: Any) -> None:
        if NETWORK_CHANGED in message.text:
            given_up.append(message.text)

    page.on("console", heard)
    for _ in range(LOADS_MAX):
        given_up.clear()
        try:
            page.goto(url)
        except Error as error:
            if NETWORK_CHANGED not in error.message:
                raise
            continue
        if not given_up:
            break
    page.remove_listener("console", heard)


class Faults:
    """What must stay empty: errors of scripts, the console's complaints, breaches of the policy, foreign requests."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.found: list[str] = []
        self.expected: tuple[str, ...] = ()
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("console", self._console)
        page.on("dialog", lambda dialog: (self.found.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: None if request.url.startswith(url) else self.found.append(request.url))

    def _console(self, message: Any) -> None:
        expected = (NETWORK_CHANGED, *self.expected)
        if message.type in {"error", "warning"} and not any(part in message.text for part in expected):
            self.found.append(f"console: {message.text}")

    def all(self) -> list[str]:
        return [*self.found, *self.page.evaluate("window.broken")]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """``open_page(server)`` returns the page once it is live. ``expected``: what the console may complain of."""
    opened: list[tuple[Any, Faults]] = []

    def open_(
        server: Server, *, expected: tuple[str, ...] = (), live: bool = True, before: Any = None, **options: Any
    ) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PAGE_MS)
        context.add_init_script(WATCH)
        page = context.new_page()
        faults = Faults(page, server.url)
        faults.expected = expected
        opened.append((context, faults))
        if before is not None:
            before(page)
        load(page, f"{server.url}/")
        if live:
            page.wait_for_selector("#live[data-state=live]")
        return page

    yield open_
    for context, faults in opened:
        found = faults.all()
        context.close()
        assert found == []
