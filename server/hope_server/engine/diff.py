"""How far a session's state has moved between two points of its journal, level by level."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from hope_model.state import State, StateSpec
from hope_server.engine.lease import Desk
from hope_server.engine.request import Difference, LevelChange
from hope_server.engine.restore import Restored, newest_snapshot, runs_between
from hope_server.engine.verify import state_after
from hope_server.sessions.history import history_upto
from hope_server.sessions.refusals import no_such_seq
from hope_server.sessions.session import Head, Point, SessionMeta


async def diff(desk: Desk, meta: SessionMeta, name: str, *, first: int, last: int) -> Difference:
    """Compute the states after the numbers ``first`` and ``last`` from what is stored, and compare them.

    ``name`` is one that no session has. Raises InvalidRequest for a number that the journal does not have,
    SessionCorrupted, QueueFull.
    """
    for seq in (first, last):
        if not 0 <= seq <= meta.seq:
            raise no_such_seq(seq, meta.seq)
    history = await history_upto(desk.store, meta.key, max(first, last))
    before, after = [await _state(desk, meta, name, history.at(seq)) for seq in (first, last)]
    return Difference(
        first_seq=first,
        last_seq=last,
        first_position=int(before["position"]),
        last_position=int(after["position"]),
        levels=await asyncio.to_thread(compare, desk.spec, before, after),
    )


def compare(spec: StateSpec, before: State, after: State) -> tuple[LevelChange, ...]:
    """Each learning level's change over all its floating tensors, in fp64. A state starts at zero, so it is
    itself what the session has added.
    """
    writes = (after["writes"] - before["writes"]).reshape(-1).tolist()
    return tuple(
        _change(level.name, writes[index], _vectors(spec, level.name, before, after))
        for index, level in enumerate(spec.learning_levels)
    )


def _vectors(spec: StateSpec, level: str, before: State, after: State) -> Iterable[tuple[Tensor, Tensor]]:
    for tensor in spec.tensors:
        if tensor.level == level and tensor.dtype.is_floating_point:
            yield before[tensor.name].double().flatten(), after[tensor.name].double().flatten()


def _change(level: str, writes: int, vectors: Iterable[tuple[Tensor, Tensor]]) -> LevelChange:
    moved = old = new = product = largest = 0.0
    for before, after in vectors:
        step = after - before
        moved += float(step @ step)
        old += float(before @ before)
        new += float(after @ after)
        product += float(before @ after)
        largest = max(largest, float(torch.max(step.abs())))
    scale = (old * new) ** 0.5
    return LevelChange(
        name=level,
        writes=writes,
        norm=moved**0.5,
        relative=(moved / old) ** 0.5 if old else None,
        max_abs=largest,
        cosine=max(-1.0, min(1.0, product / scale)) if scale else None,
    )


async def _state(desk: Desk, meta: SessionMeta, name: str, point: Point) -> State:
    """The state at ``point``, from the newest snapshot on its path."""
    then = replace(meta, head=Head(point.seq, ""), path=point.path)
    row, seq = await newest_snapshot(desk.store, desk.spec, then, lambda error: None)
    runs = runs_between(desk.store, meta.key, point.path, after=seq, head=point.seq)
    start = Restored.on(point.path, row, seq, [run async for run in runs])
    return await state_after(desk, name, start)
