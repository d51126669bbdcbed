"""The server goes away and comes back: nothing said is lost, and nothing is learned twice."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import LONG

from hope_client import Client

pytestmark = pytest.mark.browser

Make = Any


def said(url: str, session: str, text: str) -> int:
    """How often the session's state and its journal have read a message: (once each, it is hoped)."""
    with Client(base_url=url) as client:
        events = client.sessions.events(session, limit=10_000).events
        messages = client.sessions.messages(session).data
    journal = "".join(event.text or "" for event in events)
    assert [message.text for message in messages].count(text) == journal.count(text)
    return journal.count(text)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_in_the_middle_of_an_answer(person: Make, serve: Any, how: str) -> None:
    server = serve()
    ada = person(server.url)
    page = ada.visit()
    ada.say("Before.")
    ada.hear(2)
    ada.tokens = LONG
    ada.say("A long story, please.")
    growing = page.locator("#log li[aria-busy] .body")
    expect(growing).not_to_have_text("")
    seen = growing.inner_text()
    server.kill() if how == "kill" else server.terminate()
    expect(page.locator("#notice")).to_contain_text("rying again" if how == "kill" else "ait")
    if how == "stop":
        server.wait()
    serve()
    expect(page.locator("#notice")).to_contain_text("nothing was learned twice")
    ada.hear(4)
    assert ada.texts()[3].split()[:2] == seen.split()[:2]
    assert len(set(ada.keys)) == 2 < len(ada.keys)
    assert said(ada.url, ada.session, "A long story, please.") == 1
    ada.tokens = 5
    ada.say("Thank you.")
    ada.hear(6)
    page.reload()
    ada.hear(6)
    if how == "kill":
        return
    page.get_by_role("button", name="Roll back to here").nth(1).click()
    ada.hear(4)


def test_asking_again_takes_the_broken_answer_back(person: Make, serve: Any) -> None:
    server = serve()
    ada = person(server.url)
    page = ada.visit()
    ada.tokens = LONG
    ada.say("Say it.")
    expect(page.locator("#log li[aria-busy] .body")).not_to_have_text("")
    server.kill()
    expect(page.locator("#notice")).to_contain_text("rying again")
    ada.tokens = 5
    serve()
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#notice")).to_be_hidden()
    ada.hear(2)
    assert ada.texts()[0] == "Say it."


def test_a_message_to_a_server_that_is_away_waits_for_it(person: Make, serve: Any) -> None:
    server = serve()
    ada = person(server.url)
    page = ada.visit()
    ada.say("Hello.")
    ada.hear(2)
    assert server.stop() == 0
    ada.say("Are you there?")
    expect(page.locator("#notice")).to_contain_text("rying again")
    serve()
    ada.hear(4)
    assert said(ada.url, ada.session, "Are you there?") == 1
    expect(page.locator("#notice")).to_be_hidden()
