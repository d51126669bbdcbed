"""The server goes away and comes back: nothing said is lost, and nothing is learned twice."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import CHAT, SHORT

from hope_client import Client

pytestmark = pytest.mark.browser

Make = Any


def said(url: str, session: str, text: str) -> int:
    """How often a message stands in the session's journal; its chat has it as often."""
    with Client(base_url=url) as client:
        events = client.sessions.events(session, limit=10_000).events
        messages = client.sessions.messages(session).data
    found = "".join(event.text or "" for event in events).count(text)
    assert [message.text for message in messages].count(text) == found
    return found


def cut(ada: Any, text: str) -> str:
    """Ask for a long answer; what can be seen of it before it ends."""
    seen: str = ada.begin(text).inner_text()
    ada.tokens = SHORT
    return seen


def test_killed_away_and_stopped(person: Make, serve: Any) -> None:
    server = serve()
    ada = person(server.url)
    page = ada.visit()
    notice = page.locator("#notice")

    seen = cut(ada, "A long story, please.")
    server.kill()
    expect(notice).to_contain_text("rying again")
    server = serve()
    expect(notice).to_contain_text("nothing was learned twice")
    expect(page.locator("#announcer")).to_contain_text("nothing was learned twice")
    ada.hear(2)
    assert ada.texts()[1].startswith(seen.strip()[:4])
    assert len(set(ada.keys)) == 1 < len(ada.keys)
    assert said(ada.url, ada.session, "A long story, please.") == 1
    with page.expect_request(CHAT):
        page.get_by_role("button", name="Ask again").click()
    expect(notice).to_be_hidden()
    ada.hear(2)
    assert len(set(ada.keys)) == 2
    assert ada.texts()[0] == "A long story, please."

    assert server.stop() == 0
    ada.say("Are you there?")
    expect(notice).to_contain_text("rying again")
    server = serve()
    ada.hear(4)
    assert said(ada.url, ada.session, "Are you there?") == 1
    expect(notice).to_be_hidden()

    cut(ada, "Go on.")
    server.terminate()
    expect(notice).to_contain_text(re.compile("stopping|rying again"))
    assert server.wait() == 0
    serve()
    expect(notice).to_contain_text("nothing was learned twice")
    ada.hear(6)
    assert said(ada.url, ada.session, "Go on.") == 1
    page.reload()
    ada.hear(6)
    ada.say("Thank you.")
    ada.hear(8)
