"""Lost replies, lost requests, damaged data, servers that must not be trusted."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from hope_server.errors import (
    AlreadyLearned,
    SequenceConflict,
    SessionCorrupted,
    SnapshotCorrupt,
    StoreConfigError,
    StoreUnavailable,
)
from hope_server.sessions import open_store
from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_check import check_server
from hope_server.sessions.redis_store import RedisStore
from hope_server.sessions.store import JournalRecord, SessionStore, TurnKey

FIRST = JournalRecord(1, "run", "user", (1, 2, 3))
OTHER = JournalRecord(1, "run", "user", (4, 5, 6))
SOUND = {"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 1, "role": "master"}


@pytest.fixture
async def raw(external_url: str) -> AsyncIterator[Any]:
    client = Redis.from_url(external_url)
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    "plan",
    [["lose_reply"], ["lose_request"], ["lose_request", "lose_request"], ["lose_request", "lose_reply"]],
)
async def test_append_with_a_lost_message_is_done_once(
    proxy: Any, proxied: SessionStore, session: SessionKey, plan: "list[str]"
) -> None:
    await proxied.create(session, model="m", name=None)
    proxy.watch(b"hope_v1_append", *plan)
    turn = TurnKey("k", 1)
    assert await proxied.append(session, expected_seq=0, records=[FIRST], idempotency_key=turn) == 3
    assert await proxied.records(session, after=0, limit=9) == [FIRST]
    assert await proxied.learned(session, "k") == (1, 3)
    assert proxy.plan == []


async def test_applied_append_is_not_sent_again(
    proxy: Any, proxied: SessionStore, session: SessionKey
) -> None:
    await proxied.create(session, model="m", name=None)
    proxy.watch(b"hope_v1_append", "lose_reply")
    await proxied.append(session, expected_seq=0, records=[FIRST])
    assert proxy.seen == 1


async def test_late_append_that_runs_before_its_repetition(
    proxy: Any, proxied: SessionStore, session: SessionKey
) -> None:
    await proxied.create(session, model="m", name=None)
    proxy.watch(b"hope_v1_append", "hold")
    assert await proxied.append(session, expected_seq=0, records=[FIRST]) == 3
    assert await proxied.records(session, after=0, limit=9) == [FIRST]
    assert proxy.seen == 2


async def test_lost_append_against_another_writer_is_a_conflict(
    proxy: Any, proxied: SessionStore, redis_store: SessionStore, session: SessionKey
) -> None:
    await proxied.create(session, model="m", name=None)
    proxy.watch(b"hope_v1_append", "lose_request")
    both = [
        proxied.append(session, expected_seq=0, records=[FIRST]),
        redis_store.append(session, expected_seq=0, records=[OTHER]),
    ]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome != 3] == [SequenceConflict]
    assert len(await redis_store.records(session, after=0, limit=9)) == 1


async def test_lost_append_then_the_other_writers_tail(
    proxy: Any, proxied: SessionStore, redis_store: SessionStore, session: SessionKey
) -> None:
    """The head stands where this append would have put it, but with other tokens."""
    await proxied.create(session, model="m", name=None)
    await redis_store.append(session, expected_seq=0, records=[OTHER])
    proxy.watch(b"hope_v1_append", "lose_request")
    with pytest.raises(SequenceConflict, match="head at 0, found 3"):
        await proxied.append(session, expected_seq=0, records=[FIRST])


@pytest.mark.parametrize("call", ["create", "publish", "missing", "delete", "SET"])
async def test_other_writes_survive_a_lost_reply(
    proxy: Any, proxied: SessionStore, session: SessionKey, call: str
) -> None:
    proxy.watch(b"\r\nSET\r\n" if call == "SET" else b"hope_v1_" + call.encode(), "lose_reply")
    await proxied.create(session, model="m", name=None)
    await proxied.append(session, expected_seq=0, records=[FIRST])
    await proxied.put_snapshot(session, seq=3, parts={"a": b"x"})
    assert (await proxied.get_snapshot(session)) is not None
    await proxied.delete(session)
    assert proxy.plan == []
    assert session not in [meta.key for meta in await proxied.list("tenant", after=None, limit=10_000)]


async def test_used_key_is_refused_after_a_lost_reply(
    proxy: Any, proxied: SessionStore, session: SessionKey
) -> None:
    await proxied.create(session, model="m", name=None)
    await proxied.append(session, expected_seq=0, records=[FIRST], idempotency_key=TurnKey("k", 1))
    proxy.watch(b"hope_v1_append", "lose_request")
    again = dataclasses.replace(FIRST, first_seq=4)
    with pytest.raises(AlreadyLearned):
        await proxied.append(session, expected_seq=3, records=[again], idempotency_key=TurnKey("k", 4))


async def test_cancelled_calls_never_mix_replies(redis_store: SessionStore, session: SessionKey) -> None:
    ids = [SessionKey("tenant", f"{session.session}-{at}") for at in range(8)]
    for one in ids:
        await redis_store.create(one, model=one.session, name=None)
    for turn in range(40):
        tasks = [asyncio.ensure_future(redis_store.meta(one)) for one in ids]
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [meta for meta in outcomes if not isinstance(meta, BaseException)]
        assert [meta.model for meta in kept if meta.session_id != meta.model] == []
        assert {ids[at] for at in range(1, 8, 2)} <= {meta.key for meta in kept}


async def test_cancelled_append_runs_to_its_end(external_url: str, session: SessionKey) -> None:
    store = await open_store(external_url)
    await store.create(session, model="m", name=None)
    task = asyncio.ensure_future(store.append(session, expected_seq=0, records=[FIRST]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.close()
    store = await open_store(external_url)
    assert (await store.meta(session)).seq == 3
    await store.close()


async def test_lost_function_library_comes_back(
    redis_store: SessionStore, raw: Any, session: SessionKey
) -> None:
    await raw.execute_command("FUNCTION", "FLUSH")
    await redis_store.create(session, model="m", name=None)
    assert await redis_store.append(session, expected_seq=0, records=[FIRST]) == 3


async def test_damaged_record_is_refused(redis_store: SessionStore, raw: Any, session: SessionKey) -> None:
    await redis_store.create(session, model="m", name=None)
    await redis_store.append(session, expected_seq=0, records=[FIRST])
    await raw.execute_command("XDEL", f"h1:{{{session}}}:j", "3-0")
    with pytest.raises(SessionCorrupted, match="token 1 of 3 is missing"):
        await redis_store.records(session, after=0, limit=9)
    await raw.execute_command("XADD", f"h1:{{{session}}}:j", "4-0", "r", b"noise")
    with pytest.raises(SessionCorrupted, match="damaged"):
        await redis_store.records(session, after=0, limit=9)
    with pytest.raises(SessionCorrupted, match="above the session's head"):
        await redis_store.append(
            session, expected_seq=3, records=[dataclasses.replace(FIRST, first_seq=4, tokens=(1,))]
        )


@pytest.mark.parametrize("field", ["v", "seq", "created_us", "model"])
async def test_damaged_meta_is_refused(
    redis_store: SessionStore, raw: Any, session: SessionKey, field: str
) -> None:
    await redis_store.create(session, model="m", name=None)
    key = f"h1:{{{session}}}:m"
    await (raw.hdel(key, field) if field == "model" else raw.hset(key, field, "-1"))
    with pytest.raises(SessionCorrupted):
        await redis_store.meta(session)


@pytest.mark.parametrize("damage", ["flip", "drop"])
async def test_damaged_chunk_falls_back_and_heals(
    redis_store: SessionStore, raw: Any, session: SessionKey, damage: str
) -> None:
    await redis_store.create(session, model="m", name=None)
    await redis_store.append(session, expected_seq=0, records=[FIRST])
    await redis_store.put_snapshot(session, seq=1, parts={"a": b"one"})
    await redis_store.put_snapshot(session, seq=2, parts={"a": b"two"})
    (broken,) = [key async for key in raw.scan_iter(f"h1:{{{session}}}:p:*") if await raw.get(key) == b"two"]
    await (raw.set(broken, b"twp") if damage == "flip" else raw.delete(broken))
    with pytest.raises(SnapshotCorrupt, match="generation 2"):
        await redis_store.get_snapshot(session)
    older = await redis_store.get_snapshot(session, at_most_seq=1)
    assert older is not None
    assert older.parts == {"a": b"one"}
    await redis_store.put_snapshot(session, seq=2, parts={"a": b"two"})
    healed = await redis_store.get_snapshot(session)
    assert healed is not None
    assert healed.parts == {"a": b"two"}
    assert (await redis_store.get_snapshot(session, at_most_seq=1)) == older


async def test_chunks_of_dropped_generations_are_freed(
    redis_store: SessionStore, raw: Any, session: SessionKey
) -> None:
    await redis_store.create(session, model="m", name=None)
    await redis_store.append(session, expected_seq=0, records=[JournalRecord(1, "run", "user", (1,) * 9)])
    for seq in range(1, 7):
        await redis_store.put_snapshot(session, seq=seq, parts={"slow": b"same", "fast": b"%d" % seq})
    keys = [key async for key in raw.scan_iter(f"h1:{{{session}}}:p:*")]
    assert sorted([await raw.get(key) for key in keys]) == [b"5", b"6", b"same"]
    assert [await raw.ttl(key) for key in keys] == [-1, -1, -1]
    await redis_store.delete(session)
    assert [key async for key in raw.scan_iter(f"h1:{{{session}}}:*")] == []


async def test_unchanged_part_is_not_sent_again(
    proxy: Any, proxied: SessionStore, session: SessionKey
) -> None:
    await proxied.create(session, model="m", name=None)
    await proxied.append(session, expected_seq=0, records=[FIRST])
    proxy.watch(b"\r\nSET\r\n")
    for seq in (1, 2):
        await proxied.put_snapshot(session, seq=seq, parts={"slow": b"same", "fast": b"%d" % seq})
    assert proxy.seen == 3


async def test_damaged_session_hides_no_other(
    redis_store: SessionStore, raw: Any, session: SessionKey
) -> None:
    for at in range(3):
        await redis_store.create(SessionKey("tenant", f"{session.session}-{at}"), model="m", name=None)
    await raw.hset(f"h1:{{{session}-1}}:m", "seq", "-1")
    listed = [meta.session_id for meta in await redis_store.list("tenant", after=None, limit=10_000)]
    assert [found[-1] for found in listed if found.startswith(session.session)] == ["0", "2"]


async def test_old_index_entry_without_a_session_is_dropped(
    redis_store: SessionStore, raw: Any, session: SessionKey
) -> None:
    await redis_store.create(session, model="m", name=None)
    stale, young = f"{1:016x}:{session.session}-gone", f"{2**60:016x}:{session.session}-coming"
    await raw.zadd("h1:{tenant}:sessions", {stale: 0, young: 0})
    listed = [meta.session_id for meta in await redis_store.list("tenant", after=None, limit=10_000)]
    assert session.session in listed
    assert await raw.zscore("h1:{tenant}:sessions", stale) is None
    assert await raw.zrem("h1:{tenant}:sessions", young) == 1


async def test_evicting_server_is_refused(start_valkey: Any) -> None:
    with pytest.raises(StoreConfigError, match="maxmemory-policy noeviction, found allkeys-lru") as refused:
        await open_store(start_valkey("--maxmemory-policy", "allkeys-lru"))
    assert refused.value.param == "redis_url"


async def test_policy_changed_later_fails_the_check(start_valkey: Any) -> None:
    url = start_valkey()
    store, client = await open_store(url), Redis.from_url(url)
    await store.check()
    await client.config_set("maxmemory-policy", "volatile-lru")
    with pytest.raises(StoreConfigError, match="found volatile-lru"):
        await store.check()
    await client.aclose()
    await store.close()


async def test_full_server_refuses_and_keeps_the_session(start_valkey: Any, session: SessionKey) -> None:
    url = start_valkey()
    store, client = await open_store(url), Redis.from_url(url)
    await store.create(session, model="m", name=None)
    await client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="maxmemory") as refused:
        await store.append(session, expected_seq=0, records=[FIRST])
    assert refused.value.retry_after_s
    assert (await store.meta(session)).seq == 0
    assert await store.records(session, after=0, limit=1) == []
    await client.aclose()
    await store.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"redis_version": "6.2.14"}, "7.0 or newer, found 6.2.14"),
        ({"redis_version": ""}, "no version"),
        ({"cluster_enabled": 1}, "cluster-enabled"),
        ({"role": "slave"}, "replica"),
        ({"maxmemory_policy": None}, "noeviction, found None"),
    ],
)
def test_unfit_server_is_named(change: "dict[str, Any]", message: str) -> None:
    check_server(SOUND)
    with pytest.raises(StoreConfigError, match=message):
        check_server(SOUND | change)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379?retry_on_timeout=true", "redis://h:99999", "redis://[", "redis://h:x"]
)
async def test_unfit_url_is_refused(url: str) -> None:
    with pytest.raises(StoreConfigError) as refused:
        await open_store(url)
    assert refused.value.param == "redis_url"


async def test_refused_password_is_a_setting(start_valkey: Any) -> None:
    url = start_valkey("--requirepass", "right")
    for wrong in (url, url.replace("redis://", "redis://:wrong@")):
        with pytest.raises(StoreConfigError, match="user or password") as refused:
            await open_store(wrong)
        assert "wrong" not in str(refused.value)


async def test_nobody_at_the_url(unused_tcp_port: int) -> None:
    with pytest.raises(StoreUnavailable, match="redis_url") as refused:
        await RedisStore.open(f"redis://127.0.0.1:{unused_tcp_port}", patience_s=0.1)
    assert refused.value.retry_after_s


async def test_server_that_never_answers_is_bounded(session: SessionKey) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StoreUnavailable):
        await RedisStore.open(f"redis://127.0.0.1:{port}", timeout_s=0.1, patience_s=0.1)
    server.close()
