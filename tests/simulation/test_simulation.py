"""Many worlds, each from one seed; and that the checks notice a store or an engine that cheats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from tests.simulation.world import Report, Violation, Watched, simulate

from hope_server.engine.request import TokenEvent
from hope_server.engine.turn import Turn
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.records import write_entries
from hope_server.sessions.session import Fence, Head


def added(reports: Iterator[Report]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for report in reports:
        own = {
            "acknowledged": report.acknowledged,
            "crashes": report.crashes,
            "retries": report.retries,
            "frozen": report.frozen,
        }
        totals.update({**own, **report.faults})
    return totals


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 10_060), marks=pytest.mark.slow)])
def test_nothing_is_lost_and_nothing_learned_twice(seeds: range) -> None:
    totals = added(simulate(seed) for seed in seeds)
    assert min(totals.values()) > len(seeds) // 3, totals


def test_a_seed_repeats_itself() -> None:
    assert simulate(3) == simulate(3)
    assert simulate(3) != simulate(4)


class Unfenced(Watched):
    """Writes at its head, whoever writes and whatever head the writer expected."""

    async def append(self, session: SessionKey, fence: Fence, *, expected: Head, **more: Any) -> Head:
        entry = self._sessions[session]
        shift = entry.meta.seq - expected.seq
        records = [replace(record, first_seq=record.first_seq + shift) for record in more["records"]]
        return await MemoryStore.append(self, session, entry.fence, expected=entry.meta.head, records=records)


class Forgetful(Watched):
    """Keeps no record of a turn's key."""

    async def append(self, session: SessionKey, fence: Fence, **more: Any) -> Head:
        return await super().append(session, fence, **{**more, "idempotency_key": None})


class Torn(Watched):
    """Says that it has a record of several tokens, and has the first, sealed and chained as it should be."""

    async def append(self, session: SessionKey, fence: Fence, *, expected: Head, **more: Any) -> Head:
        head = await super().append(session, fence, expected=expected, **more)
        (*_, record) = more["records"]
        if record.kind == "step" and len(record.tokens) > 1:
            entry = self._sessions[session]
            short = replace(record, tokens=record.tokens[:1])
            [(_, value)], end = write_entries(self.keys, session, expected, [short])
            entry.journal[-1] = (head.seq, value)
            head = Head(head.seq, end.sha256)
            entry.meta = replace(entry.meta, head=head)
        return head


def found(seeds: range, **more: Any) -> set[str]:
    """The first words of what the checks of these worlds say."""
    said = set()
    for seed in seeds:
        try:
            simulate(seed, **more)
        except Exception as error:
            said.add(str(error)[:2] if isinstance(error, Violation) else type(error).__name__)
    return said


@pytest.mark.parametrize(("cheat", "said"), [(Unfenced, "I4"), (Forgetful, "I4"), (Torn, "I1")])
def test_a_store_that_cheats_is_found(cheat: type[Watched], said: str) -> None:
    assert any(said in found(range(seed, seed + 1), store=cheat()) for seed in range(20))


def test_an_engine_that_hands_out_before_it_commits_is_found() -> None:
    """The commit comes after the token, as if the two lines had changed places."""
    commit = Turn._append

    async def later(self: Turn, records: Any) -> None:
        if records[0].kind == "step":
            for offset, token in enumerate(records[0].tokens):
                seq = records[0].first_seq + offset
                self._out.put_nowait(TokenEvent(token, self._generated + offset, seq))
        await commit(self, records)

    with patch.object(Turn, "_append", later):
        assert "I1" in found(range(20))
