"""The event loop is woken for events that somebody waits for, and no event is left behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.server.engine.conftest import Bench

from hope_server.engine.events import Done, Event, Sampled
from hope_server.engine.mail import Mail
from hope_server.engine.tide import Tide

TOKEN, PRESSING, DONE = Sampled(1, 0, None), Sampled(1, 0, None, pressing=True), Done(3)


class Loop:
    """Keeps what it is called for."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self.calls.append(call)


def office(*sessions: str) -> tuple[Mail, Tide, Any]:
    loop: Any = Loop()
    tide = Tide(1e6)
    mail = Mail(loop, tide)
    mail.mailboxes |= {session: asyncio.Queue() for session in sessions}
    return mail, tide, loop


async def waits(tide: Tide, session: str) -> "asyncio.Task[None]":
    """``session`` waits for a moment that does not come."""
    await tide.wait("first")
    task = asyncio.ensure_future(tide.wait(session))
    await asyncio.sleep(0)
    return task


def content(mail: Mail, session: str) -> list[Event]:
    box = mail.mailboxes[session]
    return [box.get_nowait() for _ in range(box.qsize())]


async def test_a_session_that_does_not_wait_for_the_tide_is_told_at_once() -> None:
    mail, _tide, loop = office("a", "b")
    mail.send([("a", TOKEN), ("b", DONE), ("nobody", TOKEN)])
    mail.send([("a", DONE)])
    assert len(loop.calls) == 1
    loop.calls.pop()()
    assert content(mail, "a") == [TOKEN, DONE]
    assert content(mail, "b") == [DONE]
    mail.send([("a", TOKEN)])
    assert len(loop.calls) == 1


async def test_tokens_of_one_that_waits_for_the_tide_wait_too() -> None:
    mail, tide, loop = office("a")
    task = await waits(tide, "a")
    mail.send([("a", TOKEN)])
    mail.send([("a", TOKEN)])
    assert loop.calls == []
    mail.collect()
    assert content(mail, "a") == [TOKEN] * 2
    assert not task.done()
    task.cancel()


async def test_what_does_not_wait_hastens() -> None:
    for event in (PRESSING, DONE):
        mail, tide, loop = office("a")
        task = await waits(tide, "a")
        mail.send([("a", TOKEN)])
        mail.send([("a", event)])
        assert len(loop.calls) == 1
        loop.calls.pop()()
        await asyncio.wait_for(task, 10.0)
        assert content(mail, "a") == [TOKEN, event]


async def test_one_who_waits_makes_nobody_else_wait() -> None:
    mail, tide, loop = office("a", "b")
    task = await waits(tide, "a")
    mail.send([("a", TOKEN), ("b", TOKEN)])
    assert len(loop.calls) == 1
    task.cancel()


async def test_a_closed_loop_is_told_nothing() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    Mail(loop, Tide(1.0)).send([("a", DONE)])


async def test_an_answer_wakes_the_loop_less_often_than_it_has_tokens(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await bench.service(commit_interval_s=1e6, max_uncommitted=64)
    session = (await service.create_session("t")).key
    mail, loop = service._desk.mail, asyncio.get_running_loop()
    threadsafe, woken = loop.call_soon_threadsafe, 0

    def call(callback: Any, *args: Any) -> Any:
        nonlocal woken
        woken += callback == mail.collect
        return threadsafe(callback, *args)

    monkeypatch.setattr(loop, "call_soon_threadsafe", call)
    assert len(await bench.turn(service, session, (3, 1), max_tokens=30)) == 30
    assert woken < 15
