"""Chromium, a real `hope serve`, and a person's hands. A page that asks anything of another machine fails."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)
from tests.e2e.server_process import ServerProcess

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
CHAT = "**/v1/chat/completions"
WAIT_MS = 15_000
SHORT, LONG = 4, 60_000
"""Tokens of an answer: soon over, or more than come in half a minute, in which anybody has stopped it."""
ANY_LENGTH = ("--max-output-tokens", str(LONG))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A machine without Chromium fails here: these tests are asked for by name."""
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that leave it running."""
    process = ServerProcess(tmp_path_factory.mktemp("browser") / "data", *ANY_LENGTH)
    yield process
    assert process.stop() == 0


@pytest.fixture
def url(shared: ServerProcess) -> Iterator[str]:
    """Where it is. Every test finds it without sessions."""
    yield shared.url
    with shared.client() as client:
        for session in client.sessions.list().data:
            client.sessions.delete(session.id)


@pytest.fixture
def port() -> int:
    """A port for a server that comes back to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def serve(tmp_path: Path, port: int) -> Iterator[Callable[[], ServerProcess]]:
    """Starts a server of the test's own, on the same port and data each time."""
    started: list[ServerProcess] = []

    def start() -> ServerProcess:
        flags = ("--port", str(port), "--lease-ttl-s", "2", "--drain-deadline-s", "1", *ANY_LENGTH)
        started.append(ServerProcess(tmp_path / "data", *flags))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


class Person:
    """Somebody with a browser of their own. `tokens`: how long the answers to them are, at temperature 1."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.tokens = SHORT
        self.sent: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.page = self.tab()

    def tab(self) -> Page:
        """Another tab."""
        page = self.context.new_page()
        page.route(CHAT, self._lengthen)
        return page

    def _lengthen(self, route: Route, request: Request) -> None:
        """The page asks for no length: a small model's answers would end anywhere.

        Until then no token may end one: stopped after an end that was read over, an answer would be whole.
        """
        body = json.loads(request.post_data or "{}")
        self.sent.append(body)
        self.keys.append(request.headers["idempotency-key"])
        more = {"min_tokens": self.tokens, "max_tokens": self.tokens, "seed": 7}
        route.continue_(post_data=json.dumps({**body, **more}))

    def visit(self, path: str = "/", page: Page | None = None) -> Page:
        """Open the page and wait until it can be used."""
        page = page or self.page
        page.goto(f"{self.url}{path}")
        expect(page.locator("#model")).to_have_text("hope-tiny")
        return page

    def say(self, text: str, page: Page | None = None) -> None:
        """Type and send; the answer begins."""
        page = page or self.page
        page.get_by_label("Message", exact=True).fill(text)
        page.keyboard.press("Enter")

    def begin(self, text: str) -> Locator:
        """Ask for an answer so long that somebody has to end it; where it grows, once something can be seen.

        The tab is to the front: one that nobody sees draws when it likes.
        """
        self.page.bring_to_front()
        self.tokens = LONG
        self.say(text)
        growing = self.page.locator("#log li[aria-busy] .body")
        expect(growing).not_to_have_text("")
        return growing

    def hear(self, messages: int, page: Page | None = None) -> None:
        """The answer is there, and so many messages in all."""
        page = page or self.page
        expect(page.locator("#log [data-seq]")).to_have_count(messages)
        expect(page.locator("#log li:not([data-seq])")).to_have_count(0)
        expect(page.get_by_role("button", name="Send")).to_be_visible()

    def texts(self, page: Page | None = None) -> list[str]:
        """Of all messages."""
        return (page or self.page).locator("#log .body").all_inner_texts()

    @property
    def session(self) -> str:
        """The id of the session that is open."""
        return self.page.url.rpartition("/")[2]


MakePerson = Callable[..., Person]


@pytest.fixture
def person(browser: Browser, url: str) -> Iterator[MakePerson]:
    """Makes people, each with cookies, storage and screen of their own (`color_scheme`, `viewport`, …)."""
    contexts: list[BrowserContext] = []
    asked: set[str] = set()
    wrong: list[str] = []

    def make(at: str = url, **screen: Any) -> Person:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **screen})
        contexts.append(context)
        context.on("request", lambda request: asked.add(request.url.split("/")[2].partition(":")[0]))
        context.on("weberror", lambda error: wrong.append(str(error.error)))
        context.on("console", lambda said: wrong.append(said.text) if _is_fault(said.text) else None)
        return Person(context, at)

    yield make
    for context in contexts:
        context.close()
    assert asked <= {"127.0.0.1"}
    assert wrong == []


def _is_fault(text: str) -> bool:
    """What the policy forbids, or script that fails; an answer of status 4xx is told there too."""
    return "Content Security Policy" in text or "TrustedHTML" in text or "Uncaught" in text
