"""Commits of all sessions go at the same moments, and nobody waits for one who need not."""

import asyncio
from functools import partial

import pytest
from tests.server.engine.conftest import Bench
from tests.simulation.loop import run

from hope_server.engine.request import EngineConfig
from hope_server.engine.tide import Tide

LONG_S = 1e6
Moments = list[tuple[str, float]]


async def wait(tide: Tide, session: str, moments: Moments) -> None:
    await tide.wait(session)
    moments.append((session, asyncio.get_running_loop().time()))


def moments_of(*calls: tuple[float, str], hasten: tuple[float, str] | None = None) -> Moments:
    """When each of ``calls``, who begin to wait at some time, go on, of a tide every ten seconds."""

    async def main() -> Moments:
        tide, loop = Tide(10.0), asyncio.get_running_loop()
        found: Moments = []
        tasks: list[asyncio.Task[None]] = []

        def begin(session: str) -> None:
            tasks.append(asyncio.ensure_future(wait(tide, session, found)))

        for at, session in calls:
            loop.call_at(at, partial(begin, session))
        if hasten is not None:
            loop.call_at(hasten[0], tide.hasten, hasten[1])
        await asyncio.sleep(100.0)
        assert all(task.done() for task in tasks)
        return sorted(found, key=lambda moment: moment[1])

    moments: Moments = run(main())
    return moments


def test_who_comes_long_after_the_last_moment_goes_at_once() -> None:
    assert moments_of((1.0, "a"), (11.5, "a"), (40.0, "b")) == [("a", 1.0), ("a", 11.5), ("b", 40.0)]


def test_those_of_one_turn_of_the_loop_go_together() -> None:
    assert sorted(moments_of((1.0, "a"), (1.0, "b"), (1.0, "c"))) == [("a", 1.0), ("b", 1.0), ("c", 1.0)]


def test_who_comes_soon_after_a_moment_waits_for_the_next_with_all_others() -> None:
    assert moments_of((1.0, "a"), (2.0, "b"), (10.0, "c")) == [("a", 1.0), ("b", 11.0), ("c", 11.0)]


def test_one_who_is_hastened_goes_alone() -> None:
    found = moments_of((1.0, "a"), (2.0, "b"), (2.0, "c"), (5.0, "b"), hasten=(4.0, "b"))
    assert found == [("a", 1.0), ("b", 4.0), ("c", 11.0), ("b", 11.0)]


def test_a_moment_at_which_nobody_waits_is_none() -> None:
    assert moments_of((1.0, "a"), (2.0, "b"), (12.0, "c"), hasten=(3.0, "b")) == [
        ("a", 1.0),
        ("b", 3.0),
        ("c", 12.0),
    ]


def test_one_who_leaves_takes_nobody_along() -> None:
    async def main() -> Moments:
        tide = Tide(10.0)
        found: Moments = []
        await tide.wait("a")
        leaves, stays = (asyncio.ensure_future(wait(tide, name, found)) for name in ("b", "c"))
        await asyncio.sleep(1.0)
        leaves.cancel()
        await asyncio.wait({leaves})
        assert leaves.cancelled()
        assert not tide.holds("b")
        await stays
        return found

    assert run(main()) == [("c", 10.0)]


async def test_an_answer_waits_for_no_moment(bench: Bench) -> None:
    """Its first tokens and its last ones go at once, the second ones too, at the tide's first moment; and the
    others before it would have to pause.
    """
    service = await bench.service(commit_interval_s=LONG_S, max_uncommitted=6)
    session = (await service.create_session("t")).key
    events = await bench.turn(service, session, (3, 1), max_tokens=20)
    assert len(events) == 20
    records, _ = await service.events(session, after=2, limit=100)
    assert sum(len(record.tokens) for record in records) == 20


async def test_tokens_gather_between_two_moments(bench: Bench) -> None:
    service = await bench.service(commit_interval_s=LONG_S, max_uncommitted=64)
    session = (await service.create_session("t")).key
    await bench.turn(service, session, (3, 1), max_tokens=20)
    records, _ = await service.events(session, after=2, limit=100)
    assert sum(len(record.tokens) for record in records) == 20
    assert len(records) <= 3


def test_an_interval_is_not_negative() -> None:
    with pytest.raises(ValueError, match="commit_interval_s: expected at least 0"):
        EngineConfig(commit_interval_s=-0.01)
