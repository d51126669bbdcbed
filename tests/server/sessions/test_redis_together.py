"""Commits of one step go to the server in one write; each keeps its own answer."""

import asyncio
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from tests.server.sessions.writing import KEYS, Writer

from hope_server.errors import SequenceConflict, StoreUnavailable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_store import RedisStore
from hope_server.sessions.redis_together import MOST, Together
from hope_server.sessions.session import JournalRecord, TurnKey
from hope_server.sessions.store import SessionStore

FIRST = JournalRecord(1, "run", "user", (1, 2, 3))


async def writers(store: SessionStore, count: int) -> list[Writer]:
    return [await Writer.create(store, SessionKey("tenant", secrets.token_hex(16))) for _ in range(count)]


async def test_commits_of_a_step_share_a_write(proxy: Any, proxied: SessionStore) -> None:
    step = await writers(proxied, 8)
    proxy.watch(b"hope_v1_commit")
    heads = await asyncio.gather(*(writer.append(FIRST) for writer in step))
    assert proxy.seen == 1
    assert [head.seq for head in heads] == [3] * 8
    assert [await writer.records() for writer in step] == [[FIRST]] * 8


async def test_more_commits_than_one_write_holds(redis_store: SessionStore) -> None:
    step = await writers(redis_store, MOST + 3)
    heads = await asyncio.gather(*(writer.append(FIRST) for writer in step))
    assert [head.seq for head in heads] == [3] * (MOST + 3)


async def test_a_refused_commit_is_nobody_elses(redis_store: SessionStore) -> None:
    first, refused, last = step = await writers(redis_store, 3)
    await Writer(redis_store, refused.session, refused.fence, refused.head).append(FIRST)
    results = await asyncio.gather(*(writer.append(FIRST) for writer in step), return_exceptions=True)
    assert [type(result) for result in results[::2]] == [type(first.head), type(last.head)]
    assert isinstance(results[1], SequenceConflict)


@pytest.mark.parametrize("plan", [["lose_request"], ["lose_reply"], ["lose_request", "lose_reply"]])
async def test_a_lost_write_is_done_once_for_each(
    proxy: Any, proxied: SessionStore, plan: "list[str]"
) -> None:
    step = await writers(proxied, 5)
    proxy.watch(b"hope_v1_commit", *plan)
    heads = await asyncio.gather(*(writer.append(FIRST, key=TurnKey("k", 1)) for writer in step))
    assert [head.seq for head in heads] == [3] * 5
    assert [await writer.records() for writer in step] == [[FIRST]] * 5
    assert proxy.plan == []


async def test_a_caller_who_leaves_takes_nobody_along(redis_store: SessionStore) -> None:
    left, stays = await writers(redis_store, 2)
    leaving, staying = (asyncio.ensure_future(writer.append(FIRST)) for writer in (left, stays))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).seq == 3
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await left.meta()).head.seq == 3


async def test_a_server_that_is_gone_is_said_to_each(proxy: Any) -> None:
    store = await RedisStore.open(proxy.url, KEYS, patience_s=0.1)
    step = await writers(store, 3)
    await proxy.stop()
    results = await asyncio.gather(*(writer.append(FIRST) for writer in step), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    await store.close()


async def test_an_error_is_of_its_own_command(external_url: str) -> None:
    async with Redis.from_url(external_url) as redis:
        together, name = Together(redis), secrets.token_hex(8)
        commands = [("SET", name, "1"), ("LPUSH", name, "1"), ("GET", name)]
        results = await asyncio.gather(*(together.send(*each) for each in commands), return_exceptions=True)
        assert isinstance(results.pop(1), ResponseError)
        assert results == [True, b"1"]


async def test_an_answer_that_nobody_waits_for_is_left(external_url: str) -> None:
    async with Redis.from_url(external_url) as redis:
        together = Together(redis)
        left, *stay = (asyncio.ensure_future(together.send("ECHO", str(each))) for each in range(3))
        await asyncio.sleep(0)
        left.cancel()
        assert await asyncio.gather(*stay) == [b"1", b"2"]


def test_no_nonce_is_used_twice() -> None:
    key = SessionKey("tenant", "s" * 32)
    with ThreadPoolExecutor(8) as threads:
        sealed = list(threads.map(lambda place: KEYS.seal(key, "entry", place, b""), range(5000)))
    assert len({value[9:21] for value in sealed}) == 5000


def test_a_forked_process_draws_its_own_nonces() -> None:
    key = SessionKey("tenant", "s" * 32)
    KEYS.seal(key, "entry", 0, b"")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, KEYS.seal(key, "entry", 0, b"")[9:21])
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 12)
    assert len(theirs) == 12
    assert theirs not in {KEYS.seal(key, "entry", 0, b"")[9:21] for _ in range(512)}
    os.close(reading)
    os.close(writing)
