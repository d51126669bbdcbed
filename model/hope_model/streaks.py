"""The counters of a state: tokens, writes, and the refused writes in a row that end a session's learning."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from hope_model.state import COUNTERS, State, TensorSpec

LIMIT = 3
"""So many refused writes of one level, one after the other, and the session learns no more."""


class Frozen(IntEnum):
    """Why a row does not learn; kept in its state.

    JOURNAL: the session's journal says so. The others are what the guards refused; whoever keeps a journal
    has yet to say it there.
    """

    NO = 0
    JOURNAL = 1
    NON_FINITE = 2
    CANARY = 3


class Outcome(NamedTuple):
    """What came of one level's writes in a run: ``due`` and ``applied [B, n]`` bool, in order."""

    applied: Tensor
    due: Tensor


def counter_specs(levels: int) -> tuple[TensorSpec, ...]:
    """The counters of a model with so many learning levels.

    streaks: refused writes since the last applied one, by level. frozen: see :class:`Frozen`. good: the last
    boundary at which no streak was open, 0 for the beginning.
    """
    return (
        TensorSpec("position", COUNTERS, (), torch.int64),
        TensorSpec("writes", COUNTERS, (levels,), torch.int64),
        TensorSpec("refused", COUNTERS, (levels,), torch.int64),
        TensorSpec("streaks", COUNTERS, (levels,), torch.int64),
        TensorSpec("frozen", COUNTERS, (), torch.int64),
        TensorSpec("good", COUNTERS, (), torch.int64),
    )


COUNTER_NAMES = tuple(spec.name for spec in counter_specs(0))


def learning_rows(state: State, *, wait: bool = True) -> Tensor | None:
    """Which rows learn, ``[B]`` bool; None for all, which on a GPU is found out only if one may ``wait``."""
    frozen = state["frozen"]
    if (wait or frozen.device.type == "cpu") and not bool(frozen.any()):
        return None
    return frozen == Frozen.NO


def counted(before: State, outcomes: Sequence[Outcome], *, tokens: int, block: int) -> State:
    """The counters after a run of ``tokens``; ``outcomes`` by learning level.

    A frozen row has no writes, so nothing is counted of them. A row of which a level came to ``LIMIT`` within
    the run is frozen when the run is over. In a run that passes a boundary a write that was refused, at
    whatever place, keeps that boundary from being good.
    """
    learns = before["frozen"] == Frozen.NO
    results = [
        _follow(before["streaks"][:, index], outcome.applied, outcome.due & learns[:, None])
        for index, outcome in enumerate(outcomes)
    ]
    columns = [torch.stack(parts, dim=1) for parts in zip(*results, strict=True)]
    return _advanced(before, learns, _Followed(*columns), tokens=tokens, block=block)


def counted_step(before: State, outcome: Outcome, *, block: int) -> State:
    """:func:`counted` of one token; the outcome's columns are the learning levels."""
    learns = before["frozen"] == Frozen.NO
    due = outcome.due & learns[:, None]
    done = outcome.applied & due
    refused = due ^ done
    streaks = torch.where(done, 0, before["streaks"] + refused)
    followed = _Followed(done.long(), refused.long(), streaks, streaks)
    return _advanced(before, learns, followed, tokens=1, block=block)


def as_events(applied: Tensor, due: int) -> Tensor:
    """``[B, due]`` bool: as a layer says it; of a count ``[B]``, as if refused writes were the last."""
    if applied.dim() == 2:
        return applied
    return torch.arange(due, device=applied.device) < applied[:, None]


def all_applied(layers: Iterable[Tensor]) -> Tensor:
    """A level's write counts when every block applied it."""
    return torch.stack([layer.bool() for layer in layers]).all(0)


class _Followed(NamedTuple):
    """Of a run, all ``[B, levels]``: writes applied and refused, the streak after the last, the longest."""

    writes: Tensor
    refused: Tensor
    streaks: Tensor
    longest: Tensor


def _advanced(before: State, learns: Tensor, run: _Followed, *, tokens: int, block: int) -> State:
    writes, refused, streaks, longest = run
    position = before["position"] + tokens
    boundary = position - position % block
    whole = ~streaks.any(1) & ((longest == 0).all(1) | (boundary == position))
    ended = learns & (longest.amax(1) >= LIMIT)
    reached = (boundary > before["position"]) & whole & learns & ~ended
    return {
        "position": position,
        "writes": before["writes"] + writes,
        "refused": before["refused"] + refused,
        "streaks": streaks,
        "frozen": torch.where(ended, int(Frozen.NON_FINITE), before["frozen"]),
        "good": torch.where(reached, boundary, before["good"]),
    }


def _follow(streak: Tensor, applied: Tensor, due: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of writes ``[B, n]`` in a row, all ``[B]``: how many were applied and refused, the streak after the
    last, and the longest one.
    """
    if applied.shape[1] == 0:
        return torch.zeros_like(streak), torch.zeros_like(streak), streak, streak
    done = applied & due
    number = due.long().cumsum(1)
    last = torch.where(done, number, 0).cummax(1).values
    open_streak = torch.where(last > 0, number - last, streak[:, None] + number)
    written = done.sum(1)
    return written, number[:, -1] - written, open_streak[:, -1], open_streak.amax(1)
