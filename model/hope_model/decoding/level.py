"""One CMS level of one block on rows. Between two writes its memory stands still: tokens keep a key and an
error, and their gradient is summed when it is asked for.
"""

import torch
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_model.cms import AssociativeLevel
from hope_model.state import State

MOST_KEPT = 64
"""Tokens whose gradient is not summed yet, at most."""


class LevelRows:
    """``rows`` states of ``level``; see the module.

    Args:
        level: frozen, fp32.
        rows: how many.
        arena: where they are.
    """

    def __init__(self, level: AssociativeLevel, rows: int, arena: Arena) -> None:
        self.level = level
        width, self.period = level.width, level.level.period
        self.keeps = _keeps(self.period)
        self._base = level.base.detach()
        self._state = {spec.name: arena.zeros(rows, *spec.shape, dtype=spec.dtype) for spec in level.spec()}
        self.slabs: dict[str, Tensor] = {
            **self._state,
            "memory": arena.zeros(rows, width, width),
            # The last key, and what the memory recalls at it.
            "last": arena.zeros(rows, 2, width),
            # Of each token kept, its error and the key before.
            "kept": arena.zeros(rows, self.keeps, 2, width),
        }
        """Every tensor with a row axis."""
        self.slabs["memory"].copy_(self._base)

    @staticmethod
    def row_bytes(level: AssociativeLevel) -> int:
        """Of a row in all slabs."""
        width, own = level.width, sum(spec.row_bytes for spec in level.spec())
        return own + 4 * width * (width + 2 + 2 * _keeps(level.level.period))

    def load(self, row: int, state: State) -> None:
        """The row becomes ``state`` (``[1, ...]``)."""
        for name, tensor in self._state.items():
            tensor[row] = state[name][0]
        self._take_memory(row)

    def state(self, row: int, kept: int) -> State:
        """A copy of the row, ``[1, ...]``, with ``kept`` tokens whose gradient is not summed yet."""
        own = {name: tensor[row : row + 1].clone() for name, tensor in self._state.items()}
        own["gradient"] = self._gradient_after(row, kept)
        own["last_key"] = self.slabs["last"][row : row + 1, 0].clone()
        return own

    def sum_gradient(self, row: int, kept: int) -> None:
        """The ``kept`` tokens go into the gradient."""
        self._state["gradient"][row] = self._gradient_after(row, kept)[0]

    def write(self, row: int) -> Tensor:
        """The end of a period, gradient summed; whether the write was applied, a bool."""
        own = {name: tensor[row : row + 1] for name, tensor in self._state.items()}
        own["last_key"] = self.slabs["last"][row : row + 1, 0]
        written, applied = self.level._write(own)
        for name, tensor in self._state.items():
            tensor[row] = written[name][0]
        self._take_memory(row)
        return applied.all()

    def _take_memory(self, row: int) -> None:
        last_key = self._state["last_key"][row]
        self.slabs["memory"][row] = self._base + self._state["delta"][row]
        self.slabs["last"][row, 0] = last_key
        # No torch.mv, whose threads look out for more work on the cores that the kernel needs.
        self.slabs["last"][row, 1] = (self.slabs["memory"][row] * last_key).sum(-1)

    def _gradient_after(self, row: int, kept: int) -> Tensor:
        errors, keys = self.slabs["kept"][row, :kept].unbind(1)
        return (self._state["gradient"][row] + torch.matmul(errors.mT, keys))[None]


def _keeps(period: int) -> int:
    return max(count for count in range(1, MOST_KEPT + 1) if period % count == 0)
