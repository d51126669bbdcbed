"""Lost replies, lost requests, damaged data, servers that must not be trusted."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.server.sessions.writing import KEYS, Writer

from hope_server.errors import (
    AlreadyLearned,
    EncryptionKeyMissing,
    Fenced,
    SequenceConflict,
    SessionCorrupted,
    SnapshotCorrupt,
    StoreConfigError,
    StoreUnavailable,
)
from hope_server.sessions import open_store
from hope_server.sessions.key import SessionKey
from hope_server.sessions.manifest import cut
from hope_server.sessions.redis_check import check_server
from hope_server.sessions.redis_meta import documents_key, journal_key, meta_key
from hope_server.sessions.redis_snapshots import RedisSnapshots
from hope_server.sessions.redis_store import RedisStore
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import GENESIS, JournalRecord, Transcript, TurnKey
from hope_server.sessions.store import SessionStore, journal

FIRST = JournalRecord(1, "run", "user", (1, 2, 3))
OTHER = JournalRecord(1, "run", "user", (4, 5, 6))
SOUND = {"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 1, "role": "master"}


@pytest.fixture
async def raw(external_url: str) -> AsyncIterator[Any]:
    client = Redis.from_url(external_url)
    yield client
    await client.aclose()


@pytest.fixture
async def writer(redis_store: SessionStore, session: SessionKey) -> Writer:
    return await Writer.create(redis_store, session)


@pytest.fixture
async def proxied_writer(proxied: SessionStore, session: SessionKey) -> Writer:
    return await Writer.create(proxied, session)


@pytest.mark.parametrize(
    "plan",
    [
        ["lose_reply"],
        ["lose_request"],
        ["lose_request", "lose_request"],
        ["lose_request", "lose_reply"],
        ["lose_reply", "lose_reply"],
        ["hold"],
    ],
)
async def test_commit_with_a_lost_message_is_done_once(
    proxy: Any, proxied_writer: Writer, plan: "list[str]"
) -> None:
    """``hold``: the lost command runs late, just before its repetition."""
    proxy.watch(b"hope_v1_commit", *plan)
    assert (await proxied_writer.append(FIRST, key=TurnKey("k", 1))).seq == 3
    assert await proxied_writer.records() == [FIRST]
    assert await proxied_writer.store.learned(proxied_writer.session, "k") == (1, 3)
    assert proxy.plan == []
    assert (await proxied_writer.read(9)).seq == 4


async def test_lost_commit_against_another_writer_is_refused(
    proxy: Any, proxied_writer: Writer, redis_store: SessionStore, session: SessionKey
) -> None:
    await proxied_writer.release()
    other = await Writer.take(redis_store, session)
    await other.append(OTHER)
    for head in (GENESIS, other.head):
        proxy.watch(b"hope_v1_commit", "lose_request")
        proxied_writer.head = head
        with pytest.raises(Fenced):
            await proxied_writer.read(1)
    assert await other.records() == [OTHER]


async def test_a_commit_that_arrives_late_does_nothing(
    proxy: Any, proxied_writer: Writer, redis_store: SessionStore, session: SessionKey
) -> None:
    """Held back by the network until another worker has taken over and written."""
    proxy.watch(b"hope_v1_commit", "hold")
    late = asyncio.ensure_future(proxied_writer.append(FIRST))
    while proxy.seen == 0:
        await asyncio.wait({late}, timeout=0.001)
    await redis_store.release(session, proxied_writer.fence)
    other = await Writer.take(redis_store, session)
    try:
        await other.append(OTHER)
    except SequenceConflict:
        assert (await late).seq == 3
        assert await other.records() == [FIRST]
    else:
        with pytest.raises(Fenced):
            await late
        assert await other.records() == [OTHER]


@pytest.mark.parametrize(
    "call",
    ["create", "acquire", "renew", "publish_snapshot", "missing", "rollback", "quarantine", "delete", "SET"],
)
async def test_other_writes_survive_a_lost_reply(
    proxy: Any, proxied: SessionStore, session: SessionKey, call: str
) -> None:
    proxy.watch(b"\r\nSET\r\n" if call == "SET" else b"hope_v1_" + call.encode(), "lose_reply")
    writer = await Writer.create(proxied, session)
    await writer.append(FIRST)
    await writer.snapshot(3, a=b"x")
    assert (await writer.found()) is not None
    assert (await writer.rollback(2)).seq == 4
    assert [record.kind for record in await writer.records()] == ["run", "rollback"]
    await writer.release()
    await proxied.quarantine(session, writer.fence)
    await writer.delete()
    assert proxy.plan == []
    assert session not in [meta.key for meta in await proxied.list("tenant", after=None, limit=10_000)]


async def test_used_key_is_refused_after_a_lost_reply(proxy: Any, proxied_writer: Writer) -> None:
    await proxied_writer.append(FIRST, key=TurnKey("k", 1))
    proxy.watch(b"hope_v1_commit", "lose_request")
    again = dataclasses.replace(FIRST, first_seq=4)
    with pytest.raises(AlreadyLearned):
        await proxied_writer.append(again, key=TurnKey("k", 4))


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
    store = await open_store(external_url, KEYS)
    writer = await Writer.create(store, session)
    task = asyncio.ensure_future(writer.append(FIRST))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.close()
    store = await open_store(external_url, KEYS)
    assert (await store.meta(session)).seq == 3
    await store.close()


async def test_lost_function_library_comes_back(raw: Any, writer: Writer) -> None:
    await raw.execute_command("FUNCTION", "FLUSH")
    assert (await writer.append(FIRST)).seq == 3


async def test_damaged_record_is_refused(raw: Any, writer: Writer) -> None:
    await writer.append(FIRST)
    stream = journal_key(writer.session)
    await raw.execute_command("XDEL", stream, "3-0")
    with pytest.raises(SessionCorrupted, match="token 1 of 3 is missing"):
        await writer.records()
    await raw.execute_command("XADD", stream, "4-0", "r", b"noise")
    with pytest.raises(SessionCorrupted, match="damaged"):
        await writer.records()
    with pytest.raises(SessionCorrupted, match="above the session's head"):
        await writer.append(dataclasses.replace(FIRST, first_seq=4, tokens=(1,)))


async def _stored(raw: Any, session: SessionKey) -> list[tuple[bytes, bytes]]:
    return [(entry, fields[b"r"]) for entry, fields in await raw.xrange(journal_key(session))]


async def _rewrite(raw: Any, session: SessionKey, entries: list[tuple[bytes, bytes]]) -> None:
    await raw.delete(journal_key(session))
    for entry, value in entries:
        await raw.xadd(journal_key(session), {b"r": value}, id=entry)


async def test_a_journal_of_another_order_or_length_is_refused(raw: Any, writer: Writer) -> None:
    for token in range(4):
        await writer.read(token)
    good = await _stored(raw, writer.session)
    wrong = {
        "an earlier one again": [*good[:2], (good[2][0], good[1][1]), good[3]],
        "two swapped": [good[0], (good[1][0], good[2][1]), (good[2][0], good[1][1]), good[3]],
        "one left out": [good[0], good[2], good[3]],
        "the last left out": good[:3],
        "the first left out": good[1:],
    }
    for entries in wrong.values():
        await _rewrite(raw, writer.session, entries)
        with pytest.raises(SessionCorrupted):
            _ = [record async for record in journal(writer.store, writer.session, after=0, head=4)]
    await _rewrite(raw, writer.session, good)
    assert len(await writer.records()) == 4


async def test_every_flipped_bit_of_a_value_is_noticed(raw: Any, writer: Writer) -> None:
    """In a record, a snapshot's manifest and chunk, the name and the transcript."""
    dice = random.Random(5)
    told = dataclasses.replace(FIRST, transcript=Transcript(1, "aa", "bb"))
    await writer.append(told)
    await writer.snapshot(3, a=b"state")
    meta = meta_key(writer.session)
    (chunk,) = [key async for key in raw.scan_iter(f"h1:{{{writer.session}}}:p:*")]
    ((entry, record),) = await _stored(raw, writer.session)
    values = {name: await raw.hget(meta, name) for name in ("transcript", "snap_manifest")}
    for _ in range(60):
        broken = _flipped(record, dice)
        await _rewrite(raw, writer.session, [(entry, broken)])
        with pytest.raises(SessionCorrupted):
            await writer.records()
    await _rewrite(raw, writer.session, [(entry, record)])
    for name, value in values.items():
        for _ in range(30):
            await raw.hset(meta, name, _flipped(value, dice))
            with pytest.raises((SessionCorrupted, SnapshotCorrupt, EncryptionKeyMissing)):
                await (writer.meta() if name == "transcript" else writer.found())
        await raw.hset(meta, name, value)
    sealed = await raw.get(chunk)
    for _ in range(30):
        await raw.set(chunk, _flipped(sealed, dice))
        with pytest.raises(SnapshotCorrupt):
            await writer.found()
    await raw.set(chunk, sealed)
    assert await writer.found() == (3, {"a": b"state"})


def _flipped(value: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(8 * len(value))
    broken = bytearray(value)
    broken[at // 8] ^= 1 << at % 8
    return bytes(broken)


async def test_a_value_of_another_session_does_not_open(
    raw: Any, redis_store: SessionStore, session: SessionKey
) -> None:
    """The same values under another tenant's keys, as a reply that went astray would bring."""
    own = await Writer.create(redis_store, session)
    await own.append(dataclasses.replace(FIRST, transcript=Transcript(1, "aa", "bb")))
    await own.snapshot(3, a=b"state")
    foreign = SessionKey("foreign", session.session)
    async for key in raw.scan_iter(f"h1:{{{session}}}:*"):
        await raw.copy(key, key.replace(str(session).encode(), str(foreign).encode()))
    with pytest.raises(SessionCorrupted):
        await redis_store.meta(foreign)
    with pytest.raises(SessionCorrupted):
        await redis_store.records(foreign, after=0, limit=9)
    with pytest.raises(SnapshotCorrupt):
        await redis_store.get_snapshot(foreign)


async def test_nothing_of_a_session_can_be_read_in_the_store(
    raw: Any, redis_store: SessionStore, session: SessionKey
) -> None:
    secret, tokens = b"a secret name", (0x41414141,) * 8
    await redis_store.create(session, model="m", name=secret.decode())
    writer = await Writer.take(redis_store, session)
    run = JournalRecord(1, "run", "user", tokens, transcript=Transcript(1, "ab" * 32, "cd" * 32))
    await writer.append(run, key=TurnKey("a secret key", 1))
    await writer.snapshot(8, a=b"a secret state" * 9)
    found = b""
    async for key in raw.scan_iter(f"h1:{{{session}}}:*"):
        found += key + (await raw.dump(key))
        if await raw.type(key) == b"hash":
            found += b"".join(k + v for k, v in (await raw.hgetall(key)).items())
        if await raw.type(key) == b"string":
            found += await raw.get(key)
        if await raw.type(key) == b"stream":
            found += b"".join(value for _, value in await _stored(raw, session))
    for plain in (b"secret", b"AAAAAAAA", b"abababab", b"cdcdcdcd", b"\xab" * 8, b"\xcd" * 8):
        assert plain not in found


async def test_keys_are_rotated(external_url: str, session: SessionKey) -> None:
    """Old keys open, the newest seals; a key that is gone is named, and nothing is taken for damaged."""
    old, new = b"o" * 32, b"n" * 32
    rings = {"old": [old], "both": [old, new], "new": [new]}
    stores = {name: await open_store(external_url, Keyring(keys)) for name, keys in rings.items()}
    writer = await Writer.create(stores["old"], session)
    await writer.append(FIRST, key=TurnKey("k", 1))
    await writer.snapshot(3, a=b"state")
    writer.store = stores["both"]
    assert await writer.records() == [FIRST]
    assert await writer.store.learned(session, "k") == (1, 3)
    with pytest.raises(AlreadyLearned):
        await writer.append(JournalRecord(4, "run", "user", (4,)), key=TurnKey("k", 4))
    await writer.append(JournalRecord(4, "run", "user", (4,)), key=TurnKey("l", 4))
    await writer.snapshot(4, a=b"state")
    writer.store = stores["old"]
    with pytest.raises(EncryptionKeyMissing, match=Keyring([new]).ids[0]):
        await writer.records()
    writer.store = stores["new"]
    with pytest.raises(EncryptionKeyMissing, match=Keyring([old]).ids[0]):
        await writer.records()
    assert await writer.found() == (4, {"a": b"state"})
    assert await writer.store.learned(session, "l") == (4, 4)
    for store in stores.values():
        await store.close()


@pytest.mark.parametrize("field", ["v", "seq", "created_us", "model", "head", "spans", "start_seq", "name"])
async def test_damaged_meta_is_refused(raw: Any, writer: Writer, field: str) -> None:
    key = meta_key(writer.session)
    await (raw.hdel(key, field) if field == "model" else raw.hset(key, field, "-1"))
    with pytest.raises(SessionCorrupted):
        await writer.meta()


@pytest.mark.parametrize("damage", ["flip", "drop"])
async def test_damaged_chunk_falls_back_and_heals(raw: Any, writer: Writer, damage: str) -> None:
    await writer.append(FIRST)
    await writer.snapshot(1, a=b"one")
    older = set(await _chunks(raw, writer))
    await writer.snapshot(2, a=b"two")
    (broken,) = set(await _chunks(raw, writer)) - older
    await (raw.set(broken, b"x" + await raw.get(broken)) if damage == "flip" else raw.delete(broken))
    with pytest.raises(SnapshotCorrupt, match="generation 2"):
        await writer.found()
    assert await writer.found(1) == (1, {"a": b"one"})
    await writer.snapshot(2, a=b"two")
    assert await writer.found() == (2, {"a": b"two"})
    assert await writer.found(1) == (1, {"a": b"one"})


async def _chunks(raw: Any, writer: Writer) -> list[bytes]:
    return [key async for key in raw.scan_iter(f"h1:{{{writer.session}}}:p:*")]


async def test_chunks_of_dropped_generations_are_freed(raw: Any, writer: Writer) -> None:
    await writer.read(*[1] * 9)
    for seq in range(1, 7):
        await writer.snapshot(seq, slow=b"same", fast=b"%d" % seq)
    keys = await _chunks(raw, writer)
    assert [await raw.ttl(key) for key in keys] == [-1, -1, -1]
    await writer.rollback(5)
    assert len(await _chunks(raw, writer)) == 2
    await writer.rollback(4)
    assert await _chunks(raw, writer) == []


@pytest.mark.parametrize("staged", [False, True])
async def test_a_deleted_session_leaves_no_key(raw: Any, writer: Writer, staged: bool) -> None:
    """Also not of a snapshot that was being sent."""
    await writer.append(FIRST, key=TurnKey("k", 1))
    await writer.snapshot(1, a=b"one")
    await writer.snapshot(2, a=b"two")
    if staged:
        snapshots = RedisSnapshots(writer.store._link, KEYS)  # type: ignore[attr-defined]
        await snapshots._stage(writer.session, writer.fence, cut(KEYS, writer.session, 3, {"a": b"x"})[1])
        assert len(await _chunks(raw, writer)) == 3
    await writer.delete()
    assert [key async for key in raw.scan_iter(f"*{writer.session.session}*")] == []


async def test_a_staged_session_vanishes_unless_revealed(
    raw: Any, redis_store: SessionStore, session: SessionKey
) -> None:
    writer = await Writer.create(redis_store, session, staged=True)
    await writer.append(FIRST, key=TurnKey("k", 1))
    await writer.snapshot(2, a=b"x")
    keys = [key async for key in raw.scan_iter(f"h1:{{{session}}}:*")]
    lives = {key: await raw.ttl(key) for key in keys}
    assert len(lives) == 5
    assert min(lives.values()) > 0
    await redis_store.reveal(session, writer.fence)
    assert {await raw.ttl(key) for key in keys if not key.endswith(b":g")} == {-1}


async def test_a_document_is_sealed_for_its_place(
    raw: Any, writer: Writer, redis_store: SessionStore, session: SessionKey
) -> None:
    await redis_store.put_document(session, "a", b"a secret")
    await redis_store.put_document(session, "b", b"another")
    kept = documents_key(session)
    sealed = await raw.hget(kept, "a")
    assert b"secret" not in sealed
    for damaged in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", await raw.hget(kept, "b")):
        await raw.hset(kept, "a", damaged)
        with pytest.raises(SessionCorrupted):
            await redis_store.documents(session, ["a"])
    await writer.delete()
    assert not await raw.exists(kept)


async def test_unchanged_part_is_not_sent_again(proxy: Any, proxied_writer: Writer) -> None:
    await proxied_writer.append(FIRST)
    proxy.watch(b"\r\nSET\r\n")
    for seq in (1, 2):
        await proxied_writer.snapshot(seq, slow=b"same", fast=b"%d" % seq)
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
        await open_store(start_valkey("--maxmemory-policy", "allkeys-lru"), KEYS)
    assert refused.value.param == "redis_url"


async def test_policy_changed_later_fails_the_check(start_valkey: Any) -> None:
    url = start_valkey()
    store, client = await open_store(url, KEYS), Redis.from_url(url)
    await store.check()
    await client.config_set("maxmemory-policy", "volatile-lru")
    with pytest.raises(StoreConfigError, match="found volatile-lru"):
        await store.check()
    await client.aclose()
    await store.close()


async def test_full_server_refuses_and_keeps_the_session(start_valkey: Any, session: SessionKey) -> None:
    url = start_valkey()
    store, client = await open_store(url, KEYS), Redis.from_url(url)
    writer = await Writer.create(store, session)
    await client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="maxmemory") as refused:
        await writer.append(FIRST)
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
        await open_store(url, KEYS)
    assert refused.value.param == "redis_url"


async def test_refused_password_is_a_setting(start_valkey: Any) -> None:
    url = start_valkey("--requirepass", "right")
    for wrong in (url, url.replace("redis://", "redis://:wrong@")):
        with pytest.raises(StoreConfigError, match="user or password") as refused:
            await open_store(wrong, KEYS)
        assert "wrong" not in str(refused.value)


async def test_nobody_at_the_url(unused_tcp_port: int) -> None:
    with pytest.raises(StoreUnavailable, match="redis_url") as refused:
        await RedisStore.open(f"redis://127.0.0.1:{unused_tcp_port}", KEYS, patience_s=0.1)
    assert refused.value.retry_after_s


async def test_server_that_never_answers_is_bounded(session: SessionKey) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StoreUnavailable):
        await RedisStore.open(f"redis://127.0.0.1:{port}", KEYS, timeout_s=0.1, patience_s=0.1)
    server.close()
