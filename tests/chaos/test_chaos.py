"""Short forms of `python -m tests.chaos`; and that its oracle notices what it is there for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Literal, cast

import pytest
from tests.chaos.book import Book, LearnedTwice, Lost, Turn
from tests.chaos.disk import FileLimit, open_disk
from tests.chaos.ledger import Ledger
from tests.chaos.proxy import Proxy
from tests.chaos.run import run
from tests.chaos.tenant import Tenant
from tests.chaos.valkey import Valkey
from tests.chaos.worker import Worker
from tests.chaos.world import World, tracebacks

from hope_client.wire import Event

SECOND_TIME = """
import pathlib, sys
begun = pathlib.Path(sys.argv[1])
if begun.exists():
    print("ready at http://second ")
else:
    begun.touch()
    print("hope serve: --redis-url (HOPE_REDIS_URL): nobody answers", file=sys.stderr)
    sys.exit(2)
"""
"""A server that finds its store when it is begun again."""


@pytest.mark.parametrize(
    ("seconds", "faults"), [(0.6, 3), pytest.param(20.0, 25, marks=pytest.mark.chaos)], ids=["least", "short"]
)
async def test_nothing_is_lost_and_nobody_is_in(seconds: float, faults: int) -> None:
    ledger = await run(seed=4, seconds=seconds)
    assert ledger.violations == 0, ledger.table()
    assert ledger.faults.total() - ledger.faults["client left"] >= faults, ledger.table()
    assert ledger.acknowledged > 20 * seconds, ledger.table()
    assert ledger.work["state verified"] >= 6


@pytest.mark.chaos
async def test_nothing_is_lost_where_writes_are_refused_and_learning_ends() -> None:
    ledger = await run(seed=4, seconds=20.0, refusals=True)
    assert ledger.violations == 0, ledger.table()
    assert ledger.work["learning ended"] >= 1, ledger.table()


def journal(*entries: int | str, after: int = 0) -> list[Event]:
    """Positive numbers: tokens read; negative ones: tokens of the model; words: kinds that have no token."""
    events = []
    for seq, entry in enumerate(entries, after + 1):
        if isinstance(entry, str):
            events.append(Event(seq=seq, kind=cast(Literal["reset", "rollback"], entry), origin="system"))
        else:
            own = entry < 0
            events.append(
                Event(
                    seq=seq,
                    kind="step" if own else "run",
                    token=abs(entry),
                    text=chr(96 + abs(entry)),
                    origin="model" if own else "text",
                )
            )
    return events


def a_turn(text: str, *, complete: bool = False) -> Turn:
    return Turn((1, 2), max_tokens=3, text=text, tokens=len(text), complete=complete)


def test_what_was_acknowledged_is_taken_as_it_came() -> None:
    book = Book("s")
    assert book.read_turn(journal(1, 2, -3, -4), a_turn("c")) == [3, 4]
    grown = journal(-5, 1, 2, -3, after=4)  # the first turn was still running when it was asked about
    assert book.read_turn(grown, a_turn("c", complete=True)) == [3]
    book.read_return(journal("rollback", "rollback", after=8), "rollback", 3, attempts=2)
    assert (book.head, book.tokens, book.positions[8]) == (10, 3, 8)
    twin = book.fork("t", 4)
    twin.compare(journal(1, 2, -3, -4))
    assert (twin.head, twin.tokens) == (4, 4)


def test_the_end_of_learning_is_an_entry_that_nobody_asked_for_and_no_token() -> None:
    book = Book("s")
    assert book.read_turn(journal(1, 2, "freeze", -3, -4), a_turn("c")) == [3, 4]
    assert (book.head, book.tokens) == (5, 4)
    grown = Book("s")
    grown.read_turn(journal(1, 2, -3, -4), a_turn("c"))
    grown.read_turn(journal(-5, "freeze", 1, 2, after=4), a_turn(""))
    assert (grown.head, grown.tokens) == (8, 7)
    with pytest.raises(LearnedTwice, match="ended 2 times"):
        Book("s").read_turn(journal("freeze", 1, 2, "freeze"), a_turn(""))


def test_a_return_to_before_the_end_of_learning_begins_it_anew() -> None:
    book = Book("s")
    book.read_turn(journal(1, 2, "freeze", -3), a_turn("c", complete=True))
    assert (book.learns, book.ends) == ([True, True, True, False, False], 1)
    assert [book.fork("t", seq).learns[-1] for seq in (2, 3)] == [True, False]
    with pytest.raises(LearnedTwice, match="again at 7"):
        book.fork("t", 4).read_turn(journal(1, 2, "freeze", after=4), a_turn(""))
    book.read_return(journal("rollback", after=4), "rollback", 2, attempts=1)
    book.read_turn(journal(1, 2, "freeze", after=5), a_turn(""))
    assert (book.learns[5:], book.ends) == ([True, True, True, False], 2)


@pytest.mark.parametrize(
    ("tail", "turn", "error"),
    [
        (journal(1, 2, -3), a_turn("cd"), Lost),
        (journal(1, 2, -4), a_turn("c"), Lost),
        (journal(1, -3), a_turn(""), Lost),
        (journal(), a_turn(""), Lost),
        (journal(1, 2, after=1), a_turn(""), Lost),
        (journal(1, 2, -3, 1, 2, -3), a_turn("c"), LearnedTwice),
        (journal(1, 2, -3, -3, -3, -3), a_turn("c"), LearnedTwice),
        (journal(1, 2, -3, -4), a_turn("c", complete=True), LearnedTwice),
    ],
)
def test_a_journal_that_is_not_what_was_acknowledged(
    tail: Sequence[Event], turn: Turn, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Book("s").read_turn(tail, turn)


@pytest.mark.parametrize(
    ("tail", "error"),
    [(journal(), Lost), (journal("reset"), LearnedTwice), (journal("rollback", "rollback"), LearnedTwice)],
)
def test_a_rollback_that_is_not_what_was_acknowledged(tail: Sequence[Event], error: type[Exception]) -> None:
    with pytest.raises(error):
        Book("s").read_return(tail, "rollback", 0, attempts=1)


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (journal(1, 2, -3), Lost),
        (journal(1, 2, -4, -3), Lost),
        (journal(1, 2, -3, -4, -5), LearnedTwice),
    ],
)
def test_a_journal_that_changes_later(events: Sequence[Event], error: type[Exception]) -> None:
    book = Book("s")
    book.read_turn(journal(1, 2, -3, -4), a_turn("cd"))
    with pytest.raises(error):
        book.compare(events)


@pytest.mark.parametrize("limited", [True, False], ids=["limit", "best"])
async def test_a_full_disk_ends_valkey_and_loses_nothing(tmp_path: Path, limited: bool) -> None:
    """By the file-size limit, and by whatever is the best that this machine allows."""
    best = open_disk(tmp_path / "disk")
    try:
        disk = FileLimit() if limited else best
        valkey = Valkey(tmp_path / "disk")
        await valkey.start()
        assert await valkey.say("SET", "before", "kept") == "+OK"
        disk.fill(valkey)
        assert await valkey.say("SET", "while full", "x" * 10_000) == ""
        await valkey.ended()
        disk.free()
        await valkey.start()
        assert [await valkey.say("EXISTS", key) for key in ("before", "while full")] == [":1", ":0"]
        await valkey.kill()
    finally:
        best.remove()


async def test_the_proxy_forwards_swallows_and_breaks(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    await valkey.start()
    proxy = Proxy(valkey.port, Random(1))
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"
    late = asyncio.create_task(proxy.swallow(for_s=0.05, lost=False))
    await asyncio.sleep(0)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"
    assert late.done()
    proxy.tear("reply")
    writer.write(b"PING\r\n")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(len(b"+PONG\r\n"))
    writer.close()
    await proxy.stop()
    await valkey.kill()


async def test_a_server_that_refuses_its_settings_ends_with_its_words(tmp_path: Path) -> None:
    worker = Worker(0, checkpoint=tmp_path, data_dir=tmp_path / "data", store_port=1)
    worker._command += ["--slots", "none"]
    with pytest.raises(RuntimeError, match="worker 0 did not start: hope serve: --slots"):
        await worker.start()


async def test_nothing_is_left_of_a_run_whose_servers_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(worker: Worker) -> None:
        raise RuntimeError(f"worker {worker.number} did not start")

    monkeypatch.setattr(Worker, "start", refuse)
    world = World(1, tmp_path)
    with pytest.raises(RuntimeError, match="worker 0 did not start"):
        await world.__aenter__()
    assert not world.valkey.alive


async def test_a_server_whose_store_does_not_answer_is_begun_again(tmp_path: Path) -> None:
    worker = Worker(0, checkpoint=tmp_path, data_dir=tmp_path / "data", store_port=1)
    worker._command = [sys.executable, "-c", SECOND_TIME, str(tmp_path / "begun")]
    await worker.start()
    assert worker.url == "http://second"
    await worker.stop()


def test_bytes_of_another_tenant_are_counted() -> None:
    counted: list[int] = []
    note: Callable[[int, str], None] = lambda count, _: counted.append(count)  # noqa: E731
    mine, theirs = Tenant("a", "k", "canary-a", note), Tenant("b", "k", "canary-b", note)
    mine.others = [theirs]
    theirs.sessions.add("0123456789abcdef")
    mine.look(b"canary-a", "own")
    assert counted == []
    mine.look(b"xx canary-b 0123456789abcdef", "foreign")
    assert sum(counted) == 8 + 16


def test_tracebacks_are_found_in_a_log() -> None:
    raised = 'Traceback (most recent call last):\n  File "x"\n    y\nValueError: y'
    assert tracebacks(f"a line\n{raised}\nanother line\n{raised}\n") == [raised, raised]


def test_the_table_says_what_was_counted() -> None:
    ledger = Ledger(acknowledged=1234, recoveries_s=[1.0, 2.0, 3.0])
    ledger.faults["kill"] += 2
    assert ledger.violations == 0
    assert "acknowledged tokens           1,234" in ledger.table()
    ledger.lost = 1
    assert ledger.violations == 1
    assert '"recovery_p50_s": 2.0' in ledger.to_json()
