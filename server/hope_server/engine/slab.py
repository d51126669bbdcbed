"""The tensors that hold every session's state: one per spec tensor, with a leading slot axis."""

from collections.abc import Sequence

import torch

from hope_model.state import State


class Slab:
    """``rows`` states side by side, read and written by row index; a fresh row is the initial state.

    Args:
        initial: one row ``[1, ...]``, kept as the pattern of a fresh row.
        rows: how many.
    """

    def __init__(self, initial: State, rows: int) -> None:
        self._initial = {name: tensor.clone() for name, tensor in initial.items()}
        self._rows = {name: tensor.repeat_interleave(rows, dim=0) for name, tensor in initial.items()}

    @property
    def rows(self) -> State:
        """The tensors themselves, ``[rows, ...]``."""
        return self._rows

    def view(self, row: int) -> State:
        """The row as ``[1, ...]``, not copied."""
        return {name: tensor[row : row + 1] for name, tensor in self._rows.items()}

    def write(self, row: int, state: State, source: int = 0) -> None:
        """Row ``row`` becomes row ``source`` of ``state`` (``[B, ...]``)."""
        for name, tensor in self._rows.items():
            tensor[row].copy_(state[name][source])

    def clear(self, row: int) -> None:
        """Row ``row`` becomes the initial state: nothing of its last owner stays."""
        self.write(row, self._initial)

    def gather(self, rows: Sequence[int]) -> State:
        """Copies of the given rows, ``[len(rows), ...]``; a row may be named more than once."""
        index = torch.tensor(rows, dtype=torch.int64, device=next(iter(self._rows.values())).device)
        return {name: tensor.index_select(0, index) for name, tensor in self._rows.items()}


class LiveRows:
    """A slab whose rows can be lent to a decode group.

    A group of the same rows decodes for many steps in a row: its batch ``[group, ...]`` stays as the model
    returned it and goes back to the slab only when another batch, or a single row, is asked for. Row
    ``scratch`` fills groups up: it is never written, so it always holds the initial state.
    """

    def __init__(self, initial: State, rows: int, group: int) -> None:
        self._slab = Slab(initial, rows + 1)
        self._group = group
        self.scratch = rows
        self._lent: dict[tuple[int, ...], State] = {}
        self._borrower: dict[int, tuple[int, ...]] = {}

    def group(self, rows: tuple[int, ...]) -> State:
        """The batch of ``rows`` (distinct, at most ``group``) and the scratch row: ``[group, ...]``."""
        lent = self._lent.get(rows)
        if lent is not None:
            return lent
        for row in rows:
            self._return(row)
        return self._slab.gather(rows + (self.scratch,) * (self._group - len(rows)))

    def put_group(self, rows: tuple[int, ...], state: State) -> None:
        """What the model made of :meth:`group`; what it says about the padding is dropped."""
        self._lent[rows] = state
        self._borrower.update(dict.fromkeys(rows, rows))

    def row(self, row: int) -> State:
        """The row as ``[1, ...]``, valid until the next write."""
        self._return(row)
        return self._slab.view(row)

    def write(self, row: int, state: State) -> None:
        """Row ``row`` becomes the one row of ``state``."""
        self._return(row)
        self._slab.write(row, state)

    def clear(self, row: int) -> None:
        self._return(row)
        self._slab.clear(row)

    def _return(self, row: int) -> None:
        rows = self._borrower.get(row)
        if rows is None:
            return
        state = self._lent.pop(rows)
        for source, borrowed in enumerate(rows):
            del self._borrower[borrowed]
            self._slab.write(borrowed, state, source)
