"""What a session learned, the server's own figures, and who may see what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from hope_client import Client

pytestmark = pytest.mark.browser

Make = Any

STORY = "There was a small boat that sailed over the sea to a quiet island, where an old woman kept bees. "


def test_what_a_session_learned(person: Make) -> None:
    ada = person()
    page = ada.visit()
    ada.say("Hello.")
    ada.hear(2)
    worth = page.get_by_role("region", name="What its memory is worth")
    expect(worth).to_contain_text("once the session has read about 300 tokens")
    with Client(base_url=ada.url) as client:
        client.completions(STORY * 14, session_id=ada.session, max_tokens=0)
        while (found := client.sessions.loss(ada.session)).with_memory is None:
            pass  # until the snapshot has been written, which happens beside the turn
        levels = client.sessions.levels(ada.session).levels
    page.reload()
    expect(worth).to_contain_text(f"{found.with_memory:.3f}")
    expect(worth).to_contain_text(f"{found.without_memory:.3f}")
    expect(worth).to_contain_text(re.compile("nats a token (better|worse) for what it had learned"))
    rows = page.get_by_role("table", name="Levels of the session").locator("tbody tr")
    for row, level in zip(rows.all(), levels, strict=False):
        expect(row).to_contain_text(level.name)
        expect(row.locator("td").nth(2)).to_have_text(str(level.writes))
    ada.say("And then?")
    ada.hear(5)
    expect(page.get_by_role("img", name="Drift of 4 levels at")).to_be_visible()
    page.get_by_role("button", name="What it learned").click()
    expect(page.get_by_role("complementary")).to_be_hidden()


def test_the_server_s_figures(person: Make) -> None:
    ada = person()
    page = ada.visit("/#/server")
    expect(page.get_by_role("heading", level=1)).to_have_text("The server")
    ended = page.locator("dt", has_text="Ended by a limit of tokens").locator("+ dd")
    before = int(ended.inner_text())
    with Client(base_url=ada.url) as client:
        client.completions("Hi", max_tokens=2, ignore_eos=True)
    expect(ended).to_have_text(str(before + 1))
    expect(page.locator("dt", has_text="Tokens written").locator("+ dd")).to_contain_text("/s")
    expect(page.get_by_role("table", name="Levels, over all sessions").locator("tbody tr")).to_have_count(4)
    page.get_by_role("link", name="New session").click()
    expect(page.get_by_label("Message", exact=True)).to_be_visible()


def test_keys(person: Make, serve: Any, tmp_path: Any) -> None:
    from hope_server.tenants.key_file import KeyFile

    server = serve()
    keys = KeyFile(tmp_path / "data" / "keys")
    _, tenant = keys.create("acme")
    _, operator = keys.create(None)
    ada = person(server.url)
    page = ada.page
    page.goto(server.url)
    dialog = page.get_by_role("dialog", name="This server asks for a key")
    expect(dialog.get_by_label("API key")).to_be_focused()
    page.keyboard.press("Escape")
    dialog.get_by_label("API key").fill("hk_wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("does not know this key")
    dialog.get_by_label("API key").fill(tenant)
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("hope-tiny")
    ada.say("Hello.")
    ada.hear(2)
    page.reload()
    ada.hear(2)
    assert page.evaluate(
        "[Object.values(sessionStorage).join(), Object.keys(localStorage).length, document.cookie]"
    )[1:] == [0, ""]
    assert tenant in page.evaluate("Object.values(sessionStorage).join()")
    assert tenant not in page.url
    page.get_by_role("link", name="The server").click()
    expect(page.locator("#server")).to_contain_text("an operator's key alone")
    expect(page.locator("#announcer")).to_contain_text("an operator's key alone")
    page.get_by_role("button", name="Use another key").click()
    dialog.get_by_label("API key").fill(operator)
    page.keyboard.press("Enter")
    expect(page.locator("#server")).to_contain_text("Turns running")
    other = ada.tab()
    other.goto(server.url)
    expect(other.get_by_role("dialog", name="This server asks for a key")).to_be_visible()


HOSTILE = """<img src=x onerror=alert(1)> <script>alert(1)</script>
[a](javascript:alert(1)) [b](data:text/html,x) ![c](https://evil.example/x.png) <https://ok.example/>
**bold** `co*de*` _it_ ~~no~~ snake_case_name 2*3*4 https://ok.example/a.
"""


def test_markdown_is_never_markup(person: Make) -> None:
    page = person().visit()
    render = (Path(__file__).parent / "rendered.js").read_text(encoding="utf-8")
    found = page.evaluate(render, HOSTILE)
    assert found["odd"] == []
    assert found["names"] == ["a", "code", "em", "p", "s", "strong"]
    assert found["links"] == ["https://evil.example/x.png", "https://ok.example/", "https://ok.example/a"]
    assert "<script>alert(1)</script>" in found["text"]
    assert "[a](javascript:alert(1))" in found["text"]
    assert "snake_case_name" in found["text"]
    blocks = (
        "# T\n\n- a\n  - b\n- c\n\n3. x\n4. y\n\n> q\n\n```py\n<b>\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n---\n\nend"
    )
    html = page.evaluate(render, blocks)["html"]
    for part in (
        "<h2>T</h2>",
        "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>",
        '<ol start="3"><li>x</li><li>y</li></ol>',
        "<blockquote><p>q</p></blockquote>",
        "<code>&lt;b&gt;</code>",
        '<th scope="col">a</th>',
        "<td>2</td>",
        "<hr>",
        "<p>end</p>",
    ):
        assert part in html, part
    for hard in (
        "*" * 5000,
        "[" * 5000,
        "> " * 3000 + "x",
        "`" * 4999,
        "_a" * 4000,
        "- " * 2000,
        "|" * 3000 + "\n|-|",
    ):
        assert page.evaluate(render, hard)["text"] is not None


def test_a_message_is_shown_as_it_was_sent(person: Make) -> None:
    ada = person()
    page = ada.visit()
    ada.say(HOSTILE)
    ada.hear(2)
    assert ada.texts()[0] == HOSTILE.strip()
    assert page.locator("#log img, #log script").count() == 0
    page.reload()
    ada.hear(2)
    assert ada.texts()[0] == HOSTILE.strip()


def test_learning_is_switched_off_for_the_next_message(person: Make) -> None:
    ada = person()
    page = ada.visit()
    switch = page.get_by_role("switch", name="Learning")
    expect(switch).to_be_checked()
    page.locator("#learn-label").click()
    expect(switch).not_to_be_checked()
    ada.say("Forget this.")
    ada.hear(2)
    expect(page.locator("#log")).to_contain_text("learned nothing")
    page.keyboard.press("Shift+Tab")
    switch.focus()
    page.keyboard.press("Space")
    expect(switch).to_be_checked()
    ada.say("Learn this.")
    ada.hear(4)
    expect(page.locator("#log li").last).to_contain_text("wrote phi")
    assert [body.get("learn") for body in ada.sent] == ["off", None]
    with Client(base_url=ada.url) as client:
        messages = client.sessions.messages(ada.session).data
    assert [message.learn for message in messages] == ["off", "off", "on", "on"]
