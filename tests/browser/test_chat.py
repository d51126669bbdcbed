"""Talking: an answer streams, stops, is there after a reload, is taken back, and goes its own way."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import LONG, SHORT

from hope_client import Client

pytestmark = pytest.mark.browser

Make = Any


def test_chat_reload_continue(person: Make) -> None:
    ada = person()
    page = ada.visit()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    expect(page.get_by_role("heading", level=1)).to_have_text("New session")
    ada.say("My name is <b>Ada</b>.\u00a0")
    ada.hear(2)
    assert ada.texts()[0] == "My name is <b>Ada</b>."
    expect(page.locator("#announcer")).to_contain_text("Answer: ")
    expect(page.get_by_role("heading", level=1)).to_have_text("My name is <b>Ada</b>.")
    expect(page.get_by_role("link", name="My name is <b>Ada</b>.")).to_have_attribute("aria-current", "page")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    before = ada.texts()
    page.reload()
    ada.hear(2)
    assert ada.texts() == before
    ada.say("And yours?")
    ada.hear(4)
    assert ada.texts()[:2] == before
    assert [body["messages"][0]["content"] for body in ada.sent] == ["My name is <b>Ada</b>.", "And yours?"]
    assert len(set(ada.keys)) == 2


def test_an_answer_grows_and_is_stopped(person: Make) -> None:
    ada = person()
    page = ada.visit()
    growing = ada.begin("Tell me everything.")
    some = growing.inner_text()
    expect(growing).not_to_have_text(some)
    page.get_by_role("button", name="Stop").click()
    ada.hear(2)
    expect(page.locator("#log")).to_contain_text("cut short")
    expect(page.locator("#announcer")).to_have_text("Stopped.")
    with Client(base_url=ada.url) as client:
        tokens = client.sessions.get(ada.session).tokens
    assert 3 < tokens < LONG
    ada.tokens = SHORT
    ada.say("Enough.")
    ada.hear(4)
    ada.begin("Once more.")
    page.keyboard.press("Escape")
    ada.hear(6)


def test_roll_back_undo_fork_and_edit(person: Make) -> None:
    ada = person()
    page = ada.visit()
    ada.say("one")
    ada.hear(2)
    ada.say("two")
    ada.hear(4)
    whole, original = ada.texts(), page.url
    page.get_by_role("button", name="Roll back to here").first.click()
    ada.hear(2)
    assert ada.texts() == whole[:2]
    page.get_by_role("button", name="Undo").click()
    ada.hear(4)
    assert ada.texts() == whole
    page.get_by_role("button", name="Fork here").first.click()
    dialog = page.get_by_role("dialog", name="Fork the session")
    dialog.get_by_label("Name of the copy").fill("a try")
    page.keyboard.press("Enter")
    ada.hear(2)
    expect(page.get_by_role("heading", level=1)).to_have_text("a try")
    assert page.url != original
    ada.say("three")
    ada.hear(4)
    assert ada.texts()[:2] == whole[:2]
    page.goto(original)
    ada.hear(4)
    assert ada.texts() == whole
    page.get_by_role("button", name="Take back and edit").last.click()
    ada.hear(2)
    field = page.get_by_label("Message", exact=True)
    expect(field).to_have_value("two")
    expect(field).to_be_focused()


def test_rename_and_delete(person: Make) -> None:
    ada = person()
    page = ada.visit()
    ada.say("A name to change")
    ada.hear(2)
    actions = page.get_by_role("button", name="Actions for A name to change")
    actions.click()
    page.get_by_role("button", name="Rename").click()
    dialog = page.get_by_role("dialog", name="Rename the session")
    expect(dialog.get_by_label("Name")).to_have_value("A name to change")
    dialog.get_by_label("Name").fill("Née <i>Byron</i>")
    dialog.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Née <i>Byron</i>")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Née <i>Byron</i>")
    page.get_by_label("Filter sessions").fill("byron")
    expect(page.locator("#sessions a")).to_have_count(1)
    actions = page.get_by_role("button", name="Actions for Née")
    for end in ("Cancel", "Escape"):
        actions.click()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("dialog", name="Delete the session?")).to_contain_text("cannot be undone")
        if end == "Cancel":
            page.get_by_role("button", name="Cancel").click()
        else:
            page.keyboard.press("Escape")
        expect(page.locator("#sessions a")).to_have_count(1)
    session = ada.session
    actions.click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#sessions a")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_text("New session")
    ada.visit(f"/#/s/{session}")
    for place in ("#notice", "#announcer"):
        expect(page.locator(place)).to_have_text("This session is not there any more.")


def test_two_tabs(person: Make) -> None:
    ada = person()
    first = ada.visit()
    ada.say("one")
    ada.hear(2)
    second = ada.tab()
    second.goto(first.url)
    ada.hear(2, second)
    ada.say("two")
    ada.hear(4)
    ada.hear(4, second)
    assert ada.texts(second) == ada.texts()
    ada.begin("three")
    ada.tokens = SHORT
    ada.say("four", second)
    expect(second.locator("#notice")).to_contain_text("in the middle of another turn")
    expect(second.locator("#log [data-seq]")).to_have_count(4)
    first.get_by_role("button", name="Stop").click()
    ada.hear(8, second)
    expect(second.locator("#notice")).to_be_hidden()
    ada.hear(8)
    assert ada.texts() == ada.texts(second)
    assert [text for text in ada.texts() if text in ("one", "two", "three", "four")] == [
        "one",
        "two",
        "three",
        "four",
    ]


def test_a_slow_network(person: Make) -> None:
    ada = person()
    devtools = ada.context.new_cdp_session(ada.page)
    devtools.send("Network.enable")
    slow = {"offline": False, "latency": 150, "downloadThroughput": 60_000, "uploadThroughput": 20_000}
    devtools.send("Network.emulateNetworkConditions", slow)
    ada.visit()
    ada.say("Is anybody there?")
    ada.hear(2)
    assert ada.texts()[1]
