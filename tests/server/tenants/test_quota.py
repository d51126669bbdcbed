"""The quota file, and accounts held against it with a clock of their own."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_server.errors import (
    SessionQuotaExceeded,
    StartupError,
    StorageQuotaExceeded,
    TokenQuotaExceeded,
    TurnQuotaExceeded,
)
from hope_server.tenants.account import COUNT_AGAIN_S, COUNT_PAUSE_S, Account
from hope_server.tenants.quota import Quota, QuotaFile, Quotas
from hope_server.tenants.stored import Stored


def test_no_file_is_the_default(tmp_path: Path) -> None:
    quotas = QuotaFile(tmp_path)
    quotas.check()
    assert quotas.of("acme") == Quota()


def test_a_tenant_s_own_numbers_win_over_the_default_ones(tmp_path: Path) -> None:
    (tmp_path / "quotas.toml").write_text("[default]\nsessions = 3\n[tenants.acme]\nconcurrent_turns = 1\n")
    quotas = QuotaFile(tmp_path)
    assert quotas.of("acme") == Quota(sessions=3, concurrent_turns=1)
    assert quotas.of("umbrella") == Quota(sessions=3)


def test_a_change_counts_at_once_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    path, quotas = tmp_path / "quotas.toml", QuotaFile(tmp_path)
    for text, sessions in (("sessions = 1", 1), ("sessions = 22", 22), ("sessions = -3", 22), ("sess", 22)):
        path.write_text(f"[default]\n{text}\n")
        assert quotas.of("acme").sessions == sessions
    path.unlink()
    assert quotas.of("acme") == Quota()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default]\nsessions = -1", "default.sessions"),
        ("[default]\nsessions = 1.5", "default.sessions"),
        ("[default]\nsessions = true", "default.sessions"),
        ("[default]\nsessions = 10000000000000000", "default.sessions"),
        ("[default]\ntokens_per_minute = 0", "default.tokens_per_minute"),
        ("[default]\ncolour = 1", "default.colour"),
        ("[tenants.A_B]\nsessions = 1", "tenants.A_B"),
        ("[nobody]", "nobody"),
        ("[", "not TOML"),
        ("\xff", "not TOML"),
    ],
)
def test_a_file_that_does_not_fit_stops_the_start(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "quotas.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(StartupError, match=said):
        QuotaFile(tmp_path).check()


class Bench:
    """An account with a clock, a quota and a store that tests set."""

    def __init__(self, **numbers: int) -> None:
        self.now = 0.0
        self.quota = Quota(**numbers)
        self.stored = Stored()
        self.counts = 0
        self.account = Account(lambda: self.quota, lambda: self.now)

    async def count(self) -> Stored:
        self.counts += 1
        await asyncio.sleep(0)
        return self.stored

    async def book(self, sessions: int, stored_bytes: int = 0) -> None:
        await self.account.book(Stored(sessions, stored_bytes), self.count)


def test_turns_at_once() -> None:
    bench = Bench(concurrent_turns=2)
    with ExitStack() as turns:
        turns.enter_context(bench.account.turn())
        turns.enter_context(bench.account.turn())
        with pytest.raises(TurnQuotaExceeded), bench.account.turn():
            pass
    with bench.account.turn():
        pass


def test_a_debt_is_waited_for_exactly() -> None:
    bench = Bench(tokens_per_minute=60)
    with bench.account.turn():
        bench.account.charge(90)
    with pytest.raises(TokenQuotaExceeded) as refused, bench.account.turn():
        pass
    assert refused.value.retry_after_s == 30
    bench.now += 29.9
    with pytest.raises(TokenQuotaExceeded), bench.account.turn():
        pass
    bench.now += 0.2
    with bench.account.turn():
        pass


@given(steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 200)), max_size=60))
def test_no_minute_of_turns_passes_the_rate_by_more_than_a_burst(steps: list[tuple[float, int]]) -> None:
    """Over any span: at most a full bucket, what has flowed in, and the last turn."""
    bench = Bench(tokens_per_minute=120)
    used = 0
    for pause, tokens in steps:
        bench.now += pause
        try:
            with bench.account.turn():
                bench.account.charge(tokens)
                used += tokens
        except TokenQuotaExceeded:
            continue
        assert used <= 120 + bench.now * 2 + tokens


async def test_sessions_and_bytes_are_counted_in_the_store_and_booked() -> None:
    bench = Bench(sessions=3, stored_bytes=100)
    bench.stored = Stored(1, 10)
    await bench.book(1)
    await bench.book(1)
    assert bench.counts == 1
    with pytest.raises(SessionQuotaExceeded):
        await bench.book(1)
    with pytest.raises(StorageQuotaExceeded):
        await bench.book(0, 91)
    await bench.book(0, 90)


async def test_nobody_is_refused_by_an_old_count() -> None:
    bench = Bench(sessions=2)
    bench.stored = Stored(2, 0)
    with pytest.raises(SessionQuotaExceeded):
        await bench.book(1)
    bench.stored = Stored(1, 0)
    bench.now += COUNT_PAUSE_S
    await bench.book(1)
    assert bench.counts == 2


async def test_refusals_do_not_make_the_store_count_each_time() -> None:
    bench = Bench(sessions=0)
    for _ in range(50):
        with pytest.raises(SessionQuotaExceeded):
            await bench.book(1)
    assert bench.counts == 1


async def test_other_servers_sessions_are_seen_and_deletions_at_once() -> None:
    bench = Bench(sessions=5)
    await bench.book(1)
    bench.stored = Stored(5, 0)
    bench.now += COUNT_AGAIN_S
    with pytest.raises(SessionQuotaExceeded):
        await bench.book(1)
    bench.stored = Stored(4, 0)
    bench.account.forget_count()
    await bench.book(1)


async def test_two_at_once_do_not_share_the_last_place() -> None:
    bench = Bench(sessions=1)
    outcomes = await asyncio.gather(bench.book(1), bench.book(1), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), SessionQuotaExceeded]


def test_the_numbers_of_a_tenant_need_not_be_all() -> None:
    quotas = Quotas.model_validate({"tenants": {"acme": {"sessions": 10_000}}, "default": {"sessions": 1}})
    assert quotas.of("acme").sessions == 10_000
