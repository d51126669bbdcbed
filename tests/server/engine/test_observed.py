"""What the service tells its observer of sessions, slots and leases."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from hope_server.errors import InvalidRequest, LeaseHeld
from hope_server.sessions.key import SessionKey

Bench = Any


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def test_each_operation_is_told_once_it_has_succeeded(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, (3, 1), max_tokens=2)
    copy = await service.fork_session(session)
    await service.rollback_session(session, seq=2)
    await service.reset_session(session)
    await service.verify_session(session)
    exported = b"".join([piece async for piece in service.export_session(copy.key)])
    await service.import_session("tenant", await service.open_export(exported))
    await service.delete_session(session)
    done = ["create", "fork", "rollback", "reset", "verify", "export", "import", "delete"]
    assert bench.observer.operations == done
    with pytest.raises(InvalidRequest):
        await service.rollback_session(copy.key, seq=99)
    assert bench.observer.operations == done


async def test_a_row_that_makes_room_is_an_eviction(bench: Bench) -> None:
    service = await bench.service(slots=1)
    for _ in range(2):
        await bench.turn(service, await new(service), (1, 2), max_tokens=1)
    assert bench.observer.evictions == 1


async def test_leases_are_told_with_how_many_are_held(bench: Bench) -> None:
    service, other = await bench.service(), await bench.service()
    session = await new(service)
    stream: AsyncIterator[Any] = service.generate(bench.request(session, (3, 1), max_tokens=200))
    async with aclosing(stream):  # type: ignore[type-var]
        await anext(stream)
        with pytest.raises(LeaseHeld):
            await bench.turn(other, session, (4,))
    assert bench.observer.leases == [("acquired", 1), ("refused", 0), ("released", 0)]


async def test_a_lost_lease_is_told(bench: Bench) -> None:
    service, other = await bench.service(lease_ttl_s=0.03), await bench.service()
    session = await new(service)
    await service._ownership.acquire(session)
    bench.store.expire(session)
    await other._ownership.acquire(session)
    held = service._ownership._held[session]
    await service._ownership._renew(session, held)
    assert bench.observer.leases == [("acquired", 1), ("acquired", 1), ("lost", 0)]
    await other._ownership.release(session)
