"""What a session's memory is worth: the loss on its own recent text, with what it had learned before and
without. Nothing of the session changes.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from hope_model.state import State, StateSpec
from hope_server.engine.events import Scored
from hope_server.engine.lease import Desk, replayed
from hope_server.engine.logprobs import PromptScores
from hope_server.engine.request import SessionLoss
from hope_server.engine.restore import Restored, newest_snapshot, runs_between
from hope_server.sessions.session import JournalRecord, Origin, SessionMeta

LEAD_TOKENS = 16
"""Read before the first token that counts, so that both states know the last words."""
ENOUGH_TOKENS = 32
"""Tokens that count, for which no older snapshot is asked."""
COUNTED: frozenset[Origin] = frozenset({"system", "user", "tool", "text"})
"""Whose tokens count: the model's own are what its memory made likely."""

Stretch = tuple[State | None, int, list[JournalRecord]]


async def loss(desk: Desk, meta: SessionMeta, name: str, *, tokens: int) -> SessionLoss:
    """Read up to ``tokens`` tokens behind a stored snapshot twice: from the snapshot, and from the snapshot
    with every level that learns put back to its beginning. ``name`` is one that no session has.

    Raises SessionCorrupted, QueueFull.
    """
    row, seq, runs = await _stretch(desk, meta, tokens)
    counts = counted(runs)
    if row is None or not any(counts):
        return SessionLoss(seq, seq, 0, None, None)
    rows = (row, forgotten(desk.spec, row))
    with_memory, without = [
        await _mean(desk, name, Restored.on(meta.path, one, seq, runs), counts) for one in rows
    ]
    return SessionLoss(seq, runs[-1].last_seq, sum(counts), with_memory, without)


def counted(runs: Sequence[JournalRecord]) -> list[bool]:
    """Of each token, whether it counts."""
    counts = [run.origin in COUNTED for run in runs for _ in run.tokens]
    return [index >= LEAD_TOKENS and count for index, count in enumerate(counts)]


def forgotten(spec: StateSpec, row: State) -> State:
    """``row`` with the memories of every learning level at their beginning; its place in the text stays."""
    levels = {level.name for level in spec.learning_levels}
    return {
        tensor.name: torch.zeros_like(row[tensor.name]) if tensor.level in levels else row[tensor.name]
        for tensor in spec.tensors
    }


async def _stretch(desk: Desk, meta: SessionMeta, tokens: int) -> Stretch:
    """A snapshot and what was read behind it: the newest one with enough of it, else the one with more."""
    best: Stretch = (None, 0, [])
    newest = meta
    for _generation in range(2):
        row, seq = await newest_snapshot(desk.store, desk.spec, newest, lambda error: None)
        if row is None:
            break
        runs = await _runs(desk, meta, seq, tokens)
        if best[0] is None or sum(counted(runs)) > sum(counted(best[2])):
            best = (row, seq, runs)
        if sum(counted(best[2])) >= ENOUGH_TOKENS:
            break
        newest = replace(newest, snapshot_seq=seq - 1)
    return best


async def _runs(desk: Desk, meta: SessionMeta, seq: int, tokens: int) -> list[JournalRecord]:
    """At most ``tokens`` tokens behind ``seq``. Each is read as one of a run, whose logits are all known."""
    runs: list[JournalRecord] = []
    async for record in runs_between(desk.store, meta.key, meta.path, after=seq, head=meta.seq):
        runs.append(replace(record, kind="run", tokens=record.tokens[:tokens]))
        tokens -= len(runs[-1].tokens)
        if tokens <= 0:
            break
    return runs


async def _mean(desk: Desk, name: str, start: Restored, counts: list[bool]) -> float:
    """Nats per counted token when the runs are read from ``start``."""
    async with replayed(desk, name, start, PromptScores(0)) as events:
        scored = [token for event in events if isinstance(event, Scored) for token in event.logprobs]
    nats = [-(token.logprob or 0.0) for token in scored]
    return sum(each for each, count in zip(nats, counts, strict=True) if count) / sum(counts)
