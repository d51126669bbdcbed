"""The host tier against a plain model of what it promises, driven at random; and by example."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hope_server.engine.host_tier import HostTier

BOUND = 10
SESSIONS = st.sampled_from("abcdef")


class Life(RuleBasedStateMachine):
    """Rows are put, taken and dropped in any order; the oldest leave when there is no room."""

    def __init__(self) -> None:
        super().__init__()
        self.tier: HostTier[int] = HostTier(BOUND)
        self.rows: dict[str, tuple[int, int]] = {}  # in the order in which they were put
        self.count = self.hits = self.misses = self.evicted = 0

    @rule(session=SESSIONS, size=st.integers(0, BOUND + 2))
    def put(self, session: str, size: int) -> None:
        self.count += 1
        self.tier.put(session, self.count, size)
        self.rows.pop(session, None)
        if size > BOUND:
            self.evicted += 1
            return
        while sum(held for _, held in self.rows.values()) + size > BOUND:
            self.evicted += 1
            del self.rows[next(iter(self.rows))]
        self.rows[session] = self.count, size

    @rule(session=SESSIONS)
    def take(self, session: str) -> None:
        found = self.tier.take(session)
        expected = self.rows.pop(session, None)
        assert found == (None if expected is None else expected[0])
        self.hits += expected is not None
        self.misses += expected is None

    @rule(session=SESSIONS)
    def drop(self, session: str) -> None:
        assert self.tier.drop(session) == (self.rows.pop(session, None) is not None)

    @invariant()
    def it_is_as_promised(self) -> None:
        self.tier.check_integrity()
        assert {session for session in "abcdef" if session in self.tier} == self.rows.keys()
        stats = self.tier.stats
        assert (stats.hits, stats.misses, stats.evictions) == (self.hits, self.misses, self.evicted)
        assert stats.bytes == sum(size for _, size in self.rows.values())


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase


def test_without_room_nothing_is_kept() -> None:
    tier: HostTier[str] = HostTier(0)
    tier.put("a", "row", 1)
    assert tier.take("a") is None


def test_a_row_is_given_once() -> None:
    tier: HostTier[str] = HostTier(5)
    tier.put("a", "row", 5)
    assert tier.take("a") == "row"
    assert tier.take("a") is None


def test_integrity_notices_bytes_that_nobody_holds() -> None:
    tier: HostTier[str] = HostTier(5)
    tier.put("a", "row", 5)
    tier.stats.bytes = 4
    with pytest.raises(AssertionError, match="4 bytes counted, 5 held"):
        tier.check_integrity()
