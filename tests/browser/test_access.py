"""Who reads it how: keyboard, screen reader, small screen, dark, less motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

Make = Any

HERE = Path(__file__).parent
UNNAMED = (HERE / "unnamed.js").read_text(encoding="utf-8")
CONTRASTS = (HERE / "contrasts.js").read_text(encoding="utf-8")


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the screen."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return wider


def audit(page: Page) -> None:
    """Names, landmarks, one heading of the first rank, ids once, and text that can be read."""
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.title") != ""
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("status")).to_have_id("announcer")
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    found = page.evaluate(CONTRASTS)
    assert found["poor"] == []
    assert found["seen"] > 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_landmarks_and_contrast(person: Make, scheme: str) -> None:
    ada = person(color_scheme=scheme)
    page = ada.visit()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 380) == (scheme == "light")
    audit(page)
    ada.say("Hello.")
    ada.hear(2)
    expect(page.get_by_role("navigation", name="Sessions")).to_be_visible()
    expect(page.get_by_role("complementary", name="What this session learned")).to_be_visible()
    expect(page.get_by_role("region", name="Conversation")).to_be_visible()
    expect(page.get_by_role("img", name="Spectrum of 4 levels")).to_be_visible()
    expect(page.get_by_role("table", name="Levels of the session")).to_be_visible()
    audit(page)
    page.get_by_role("button", name="Actions for Hello.").click()
    audit(page)
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog", name="Delete the session?")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="The server").click()
    expect(page.get_by_role("table", name="Levels, over all sessions")).to_be_visible()
    audit(page)


def focused(page: Page) -> str:
    name: str = page.evaluate(
        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.id ?? ''"
    )
    return name


def test_with_the_keyboard_alone(person: Make) -> None:
    ada = person()
    page = ada.visit()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    page.keyboard.press("Enter")
    ada.hear(2)
    assert ada.texts()[0] == "first line\nsecond"
    page.reload()
    ada.hear(2)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the message")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the message")).to_be_in_viewport()
    reached = []
    while focused(page) != "panel-toggle":
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", focused(page)
        reached.append(focused(page))
        assert len(reached) < 20
    assert reached[:2] == ["new-session", "filter"]
    assert "server-link" in reached
    assert "Actions for first line second" in reached
    page.get_by_role("button", name="Actions for first line second").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Rename")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Actions for first line second")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="Name")).to_be_focused()
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("by keys")
    page.get_by_role("link", name="Skip to the message").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_on_a_phone(person: Make) -> None:
    ada = person(viewport={"width": 320, "height": 700}, has_touch=True, is_mobile=True)
    page = ada.visit()
    assert overflow(page) == 0
    ada.say("A word that is too long for a phone: " + "x" * 120)
    ada.hear(2)
    assert overflow(page) == 0
    expect(page.get_by_role("navigation", name="Sessions")).to_be_hidden()
    opener = page.get_by_role("button", name="Open the sessions")
    opener.click()
    expect(page.get_by_role("button", name="Close the sessions")).to_be_focused()
    expect(page.locator("#main")).to_have_attribute("inert", "")
    audit(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("navigation", name="Sessions")).to_be_hidden()
    expect(opener).to_be_focused()
    page.get_by_role("button", name="What it learned").click()
    expect(page.get_by_role("button", name="Close what it learned")).to_be_focused()
    expect(page.get_by_role("table", name="Levels of the session")).to_be_visible()
    assert overflow(page) == 0
    audit(page)
    page.get_by_role("button", name="Close what it learned").click()
    expect(page.get_by_role("button", name="What it learned")).to_be_focused()
    opener.click()
    page.get_by_role("link", name="The server").click()
    expect(page.get_by_role("table", name="Levels, over all sessions")).to_be_visible()
    assert overflow(page) == 0


def test_less_motion(person: Make) -> None:
    style = "(element) => getComputedStyle(element, '::after').animationName"
    for motion, name in (("no-preference", "breathe"), ("reduce", "none")):
        ada = person(reduced_motion=motion)
        page = ada.visit()
        growing = ada.begin("Slowly.")
        assert growing.evaluate(style) == name
        page.keyboard.press("Escape")
        ada.hear(2)
