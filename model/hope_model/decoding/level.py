"""One CMS level of one block on rows. Between two writes its memory stands still: tokens keep a key and an
error, and their gradient is summed when it is asked for.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hope_model.cms import AssociativeLevel
from hope_model.decoding.weights import Joined, rms, sigmoid, unit
from hope_model.state import State

MOST_KEPT = 64
"""Tokens whose gradient is not summed yet, at most."""


class LevelRows:
    """``rows`` states of ``level``; see the module.

    Args:
        level: frozen, fp32.
        rows: how many.
        dtype: of the operands of slow products.
    """

    def __init__(self, level: AssociativeLevel, rows: int, dtype: torch.dtype) -> None:
        self.level = level
        self._joined = Joined(level.key, level.value, level.rate, dtype=dtype)
        self._output = Joined(level.output, dtype=dtype)
        width, self.period = level.width, level.level.period
        self.keeps = _keeps(self.period)
        self._base = level.base.detach()
        self._state = {spec.name: torch.zeros(rows, *spec.shape, dtype=spec.dtype) for spec in level.spec()}
        self._memory = self._base.repeat(rows, 1, 1)
        # The last key, and what the memory recalls at it; of each token kept, its error and the key before.
        self._last = torch.zeros(rows, 2, width)
        self._kept = torch.zeros(rows, self.keeps, 2, width)

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

    def slabs(self) -> Iterator[Tensor]:
        """Every tensor with a row axis."""
        yield from (*self._state.values(), self._memory, self._last, self._kept)

    def state(self, row: int, kept: int) -> State:
        """A copy of the row, ``[1, ...]``, with ``kept`` tokens whose gradient is not summed yet."""
        own = {name: tensor[row : row + 1].clone() for name, tensor in self._state.items()}
        own["gradient"] = self._gradient_after(row, kept)
        own["last_key"] = self._last[row : row + 1, 0].clone()
        return own

    def step(self, x: Tensor, span: slice, active: Tensor, rows: Tensor, kept: Tensor) -> Tensor:
        """One token of each row of ``span``: ``x [N, D]`` -> reading ``[N, D]``.

        Args:
            active: ``[B]`` places in ``span`` that are written; rows: the same in the slab.
            kept: ``[B]`` tokens whose gradient is not summed yet.
        """
        key, value, rate = self._joined(rms(x, self.level.norm.gain)).split(self._joined.sizes, dim=-1)
        key, value = unit(torch.relu(key)), unit(value)
        recalled = torch.bmm(key[:, None], self._memory[span].mT)
        last = self._last[span]
        error = sigmoid(rate) * (last[:, 1] - value)
        self._kept[rows, kept] = torch.stack((error, last[:, 0]), dim=1)[active]
        self._last[rows] = torch.cat((key[:, None], recalled), dim=1)[active]
        return self._output(recalled[:, 0])

    def sum_gradient(self, row: int, kept: int) -> None:
        """The ``kept`` tokens go into the gradient."""
        self._state["gradient"][row] = self._gradient_after(row, kept)[0]

    def write(self, row: int) -> Tensor:
        """The end of a period, gradient summed; whether the write was applied, a bool."""
        own = {name: tensor[row : row + 1] for name, tensor in self._state.items()}
        own["last_key"] = self._last[row : row + 1, 0]
        written, applied = self.level._write(own)
        for name, tensor in self._state.items():
            tensor[row] = written[name][0]
        self._take_memory(row)
        return applied.all()

    def _take_memory(self, row: int) -> None:
        last_key = self._state["last_key"][row]
        self._memory[row] = self._base + self._state["delta"][row]
        self._last[row, 0] = last_key
        self._last[row, 1] = torch.mv(self._memory[row], last_key)

    def _gradient_after(self, row: int, kept: int) -> Tensor:
        errors, keys = self._kept[row, :kept].unbind(1)
        return (self._state["gradient"][row] + torch.matmul(errors.mT, keys))[None]


def _keeps(period: int) -> int:
    return max(count for count in range(1, MOST_KEPT + 1) if period % count == 0)
