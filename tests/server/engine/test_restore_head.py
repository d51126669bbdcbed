"""A session is restored up to the head that its meta names, or not at all."""

from dataclasses import replace
from typing import Any

import pytest
from tests.server.engine.conftest import BLOCK, HashModel

from hope_server.engine.restore import restore
from hope_server.errors import SessionCorrupted
from hope_server.sessions.session import Head

Bench = Any


async def test_a_journal_that_ends_with_another_hash_is_not_restored(bench: Bench) -> None:
    """As long, but not the one that the meta was read of."""
    service = await bench.service()
    session = (await service.create_session("tenant")).key
    await bench.turn(service, session, tuple(range(2 * BLOCK)), max_tokens=3)
    meta = await bench.store.meta(session)
    spec = HashModel().state_spec
    assert (await restore(bench.store, spec, meta, lambda error: None)).runs
    other = replace(meta, head=Head(meta.seq, "ab" * 32))
    with pytest.raises(SessionCorrupted, match="does not end with abababab"):
        await restore(bench.store, spec, other, lambda error: None)
