"""10,000 tokens through eight sessions at once: what they share, and what they must not."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from hope_client import Client

LENGTHS = (512, 768, 1024, 1024, 1280, 1536, 1792, 2304)
"""Tokens of each session, 10,240 in all: whole blocks, so that the slowest level's count is not cut short."""
TURNS = 3
PERIODS = {"phi": 1, "projections": 64, "cms-64": 64, "cms-256": 256}

Journal = Callable[[Client, str], list[int]]


def test_ten_thousand_tokens_through_eight_sessions(start_server: Any, journal: Journal) -> None:
    server = start_server()
    with server.client() as client, ThreadPoolExecutor(len(LENGTHS)) as pool:
        together = list(pool.map(lambda length: _live(client, length), LENGTHS))
        metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
        alone = [_live(client, length) for length in LENGTHS]
        for session, other, length in zip(together, alone, LENGTHS, strict=True):
            tokens = journal(client, session)
            assert len(tokens) == length
            assert tokens == journal(client, other), f"{session} in company differs from {other} alone"
            _check_levels(client, session, length)
    _check_frequencies(metrics)
    assert _label(metrics, "hope:slow_weights_info", "sha256") == server.slow_weights_sha256
    verified = httpx.get(f"{server.url}/health?verify_slow_weights=true", timeout=60)
    assert verified.json() == {"status": "ok"}
    assert server.stop() == 0
    assert f"slow weights unchanged: sha256 {server.slow_weights_sha256}" in server.log()


def _live(client: Client, total: int) -> str:
    """Greedy turns until a new session has read ``total`` tokens; its id."""
    session = client.sessions.create().id
    share = total // TURNS
    for turn in range(TURNS):
        length = share if turn < TURNS - 1 else total - share * (TURNS - 1)
        generated = length // 8
        prompt = [(7 * i * (turn + 1) + total + 6) % 8000 + 100 for i in range(length - generated)]
        client.completions(prompt, max_tokens=generated, temperature=0, ignore_eos=True, session_id=session)
    return session


def _check_levels(client: Client, session: str, tokens: int) -> None:
    """What the session itself has counted."""
    levels = {level.name: level for level in client.sessions.levels(session).levels}
    assert levels.keys() == {*PERIODS, "slow"}
    for name, period in PERIODS.items():
        level = levels[name]
        assert (level.period, level.tokens, level.writes) == (period, tokens, tokens // period)
        assert level.frequency == pytest.approx(1 / period, rel=0.01)
        assert level.drift_ratio > 0
        assert level.bytes > 0
    assert (levels["slow"].period, levels["slow"].writes, levels["slow"].frequency) == (None, 0, 0)


def _check_frequencies(metrics: str) -> None:
    """What the server has counted, over all sessions."""
    for level, period in PERIODS.items():
        updates = _value(metrics, "hope:level_updates_total", level)
        tokens = _value(metrics, "hope:level_tokens_total", level)
        assert tokens == sum(LENGTHS)
        assert updates / tokens == pytest.approx(1 / period, rel=0.01)
        assert _value(metrics, "hope:level_update_frequency", level) == pytest.approx(1 / period, rel=0.01)
        assert _value(metrics, "hope:level_updates_refused_total", level) == 0


def _value(metrics: str, name: str, level: str) -> float:
    found = re.search(rf'^{re.escape(name)}\{{[^}}]*level="{level}"[^}}]*\}} (\S+)$', metrics, re.MULTILINE)
    assert found, f"{name} of level {level} is missing"
    return float(found[1])


def _label(metrics: str, name: str, label: str) -> str:
    found = re.search(rf'^{re.escape(name)}\{{[^}}]*{label}="([^"]*)"', metrics, re.MULTILINE)
    assert found, f"{name} is missing"
    return found[1]
