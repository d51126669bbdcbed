"""The live states of sessions inside their open block: read one token at a time, by slot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from hope_model.decoding import DecodeRows, can_decode
from hope_model.hope import Hope
from hope_model.state import State, StateSpec, host_copy
from hope_model.streaks import Frozen
from hope_server.engine.decode_sizes import candidate_sizes
from hope_server.engine.graphs import CudaGraphs
from hope_server.engine.runner import Counts
from hope_server.engine.slab import LiveRows


@dataclass(frozen=True, slots=True)
class GroupParked:
    """A row that left its slab."""

    state: State

    @property
    def tensors(self) -> list[Tensor]:
        return list(self.state.values())


class StepModel(Protocol):
    """What a group's step needs of a model; shapes as in ``hope_model.hope.Hope``."""

    @property
    def state_spec(self) -> StateSpec: ...
    def initial_state(self, rows: int) -> State: ...
    def step(self, tokens: Tensor, state: State, learn: Tensor | None = ...) -> tuple[Tensor, State]: ...
    def drift(self, state: State) -> dict[str, Tensor]: ...


P = TypeVar("P")


class Previews(Protocol[P]):
    """One row a slot. A row's bits do not depend on who shares its step. ``P``: a parked row."""

    def clear(self, slot: int) -> None:
        """The row becomes the initial state."""
        ...

    def write(self, slot: int, state: State) -> None:
        """The row becomes the one row of ``state``."""
        ...

    def state(self, slot: int) -> State:
        """The row as ``[1, ...]``, valid until the next write."""
        ...

    def park(self, slot: int) -> P:
        """A host copy of the row in its own form, for :meth:`unpark`."""
        ...

    def unpark(self, slot: int, parked: P) -> None:
        """The row becomes the parked one, bit for bit."""
        ...

    def counts(self, slot: int) -> Counts: ...
    def drift(self, slot: int) -> dict[str, float]:
        """Of the row as it stands, per learning level."""
        ...

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool]
    ) -> tuple[Tensor, list[Counts]]:
        """One token for each of ``slots`` (ascending): logits ``[B, vocab]``, and the rows' counts after.

        ``learn``: whether each may teach; empty for all.
        """
        ...


class RowPreviews:
    """Rows in place, all of a step in one batch."""

    def __init__(self, rows: DecodeRows) -> None:
        self._rows = rows
        self.clear, self.write, self.state = self._rows.clear, self._rows.load, self._rows.state
        self.park, self.unpark = self._rows.park, self._rows.unpark
        self.drift = self._rows.drift

    def counts(self, slot: int) -> Counts:
        return Counts(*self._rows.counts(slot))

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool]
    ) -> tuple[Tensor, list[Counts]]:
        return self._rows.step(slots, tokens, learn), [self.counts(slot) for slot in slots]


class ExactPreviews(RowPreviews):
    """Rows whose bits do not depend on how their tokens are cut either: a run is read as so many steps. So
    the row at a boundary is the state there.
    """

    def read(self, slot: int, tokens: Sequence[int], learn: Sequence[bool]) -> tuple[Tensor, Counts]:
        """Tokens of one row: logits ``[vocab]`` after the last, and its counts. ``learn``: as of steps."""
        return self._rows.read(slot, tokens, learn), self.counts(slot)


class GroupPreviews:
    """Rows that a model steps as values, in groups of one shape: what does not depend on company by itself
    does not where the shape is always the same.
    """

    def __init__(self, model: StepModel, slots: int, group: int) -> None:
        self._model, self._group = model, group
        initial = model.initial_state(1)
        self._device = initial["position"].device
        self._rows = LiveRows(initial, slots, group)
        self.clear, self.write, self.state = self._rows.clear, self._rows.write, self._rows.row

    def park(self, slot: int) -> GroupParked:
        return GroupParked(host_copy(self._rows.row(slot)))

    def unpark(self, slot: int, parked: GroupParked) -> None:
        self._rows.write(slot, parked.state)

    def counts(self, slot: int) -> Counts:
        return counts_of(self._rows.row(slot))[0]

    def drift(self, slot: int) -> dict[str, float]:
        return drift_of(self._model, self._rows.row(slot))

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool]
    ) -> tuple[Tensor, list[Counts]]:
        logits, counts = [], []
        for start in range(0, len(slots), self._group):  # ascending, so the same groups step after step
            part = slice(start, start + self._group)
            own, found = self._step(tuple(slots[part]), list(tokens[part]), list(learn[part]))
            logits.append(own)
            counts += found
        return torch.cat(logits), counts

    def _step(
        self, slots: tuple[int, ...], tokens: list[int], learn: list[bool]
    ) -> tuple[Tensor, list[Counts]]:
        padding = self._group - len(tokens)
        padded = torch.tensor(tokens + [0] * padding, device=self._device)
        mask = torch.tensor(learn + [True] * padding, device=self._device) if learn else None
        logits, state = self._model.step(padded, self._rows.group(slots), mask)
        self._rows.put_group(slots, state)
        return logits[: len(slots)], counts_of(state)[: len(slots)]


def previews_of(model: StepModel, *, slots: int, group: int) -> Previews[Any]:
    """The faster form that ``model`` has; ``group`` is the size of the others' groups, at most."""
    if isinstance(model, Hope) and can_decode(model):
        rows = DecodeRows(model, slots)
        return ExactPreviews(rows) if rows.can_read else RowPreviews(rows)
    device = model.initial_state(1)["position"].device
    if isinstance(model, Hope) and device.type == "cuda":
        from hope_server.engine.slab_previews import SlabPreviews

        return SlabPreviews(model, slots, candidate_sizes(group), CudaGraphs(device))
    return GroupPreviews(model, slots, group)


def drift_of(model: StepModel, state: State) -> dict[str, float]:
    """Of the one row of ``state``."""
    return {level: float(ratio) for level, ratio in model.drift(state).items()}


def counts_of(state: State) -> list[Counts]:
    """Each row's own counters, for which the device is asked once."""
    return read_counts(pack_counts(state))


def pack_counts(state: State) -> Tensor:
    """The counters side by side, ``[B, 3 + 2 L]`` int64."""
    single = torch.stack([state[name] for name in ("position", "frozen", "good")], dim=1)
    return torch.cat((single, state["writes"], state["refused"]), dim=1)


def read_counts(packed: Tensor) -> list[Counts]:
    """What :func:`pack_counts` packed."""
    levels = (packed.shape[1] - 3) // 2
    return [
        Counts(position, tuple(rest[:levels]), tuple(rest[levels:]), Frozen(frozen), good)
        for position, frozen, good, *rest in packed.tolist()
    ]
