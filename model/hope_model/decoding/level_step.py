"""One token of a CMS level on rows, in torch's operations."""

import torch
from torch import Tensor

from hope_model.decoding.level import LevelRows
from hope_model.decoding.weights import Joined, rms, sigmoid, unit


class LevelStep:
    """Reads and writes the slabs of ``rows``; ``dtype``: of the operands of slow products."""

    def __init__(self, rows: LevelRows, dtype: torch.dtype) -> None:
        level, self._slabs = rows.level, rows.slabs
        self._joined = Joined(level.key, level.value, level.rate, dtype=dtype)
        self._output = Joined(level.output, dtype=dtype)
        self._gain = level.norm.gain.detach()

    def __call__(self, x: Tensor, span: slice, active: Tensor, rows: Tensor, kept: Tensor) -> Tensor:
        """One token of each row of ``span``: ``x [N, D]`` -> reading ``[N, D]``.

        Args:
            active: ``[B]`` places in ``span`` that are written; rows: the same in the slab.
            kept: ``[B]`` tokens whose gradient is not summed yet.
        """
        key, value, rate = self._joined(rms(x, self._gain)).split(self._joined.sizes, dim=-1)
        key, value = unit(torch.relu(key)), unit(value)
        recalled = torch.bmm(key[:, None], self._slabs["memory"][span].mT)
        last = self._slabs["last"][span]
        error = sigmoid(rate) * (last[:, 1] - value)
        self._slabs["kept"][rows, kept] = torch.stack((error, last[:, 0]), dim=1)[active]
        self._slabs["last"][rows] = torch.cat((key[:, None], recalled), dim=1)[active]
        return self._output(recalled[:, 0])
