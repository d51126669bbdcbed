"""What every operation with a fused form declares once; tests, compilation and timings go over it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hope_kernels.dispatch import Dispatch

Sizes = Mapping[str, int]
Arguments = dict[str, Any]


class Maker:
    """Random arguments for ``rows`` rows of a slab that has two more, on a device, the same for a seed."""

    def __init__(self, rows: int, device: str, dtype: torch.dtype, seed: int = 0) -> None:
        self.rows, self.dtype, self._device = rows, dtype, device
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device, dtype)

    def unit(self, *shape: int) -> Tensor:
        x = self.normal(*shape)
        return torch.nn.functional.normalize(x, dim=-1)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator).to(self._device)

    def integers(self, *values: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(self._device)

    def like(self, values: Tensor) -> Tensor:
        return values.to(self._device)

    def slab(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.normal(self.rows + 2, *shape, dtype=dtype)

    def slots(self) -> Tensor:
        """Distinct slots in no order, the first one left free."""
        return self.integers(*range(self.rows + 1, 1, -1))

    def alternate(self, first: bool) -> Tensor:
        """``[rows]`` bool, every other one."""
        return self.integers(*((index + first) % 2 for index in range(self.rows)), dtype=torch.bool)


@dataclass(frozen=True)
class Subject:
    """An operation and its arguments at given sizes.

    op: the operation. variant: of it, if it has some. make: its arguments by name.
    small: sizes for tests. served, served_rows: those of a model that is served.
    state: slabs that it changes, with how often a row's bytes move. read: slabs that it only reads.
    by_row: arguments with a leading row axis.
    again: bytes that it reads more than once by construction, from its arguments.
    dtypes: of operands. tolerance: absolute and relative error by type.
    expected: what the fused form is held to, if not to the operation's own plain form.
    """

    op: Dispatch[Any, Any]
    make: Callable[[Maker, Sizes], Arguments]
    small: tuple[Sizes, ...]
    served: Sizes
    served_rows: int
    state: Mapping[str, float] = field(default_factory=dict)
    read: tuple[str, ...] = ()
    by_row: tuple[str, ...] = ()
    again: Callable[[Arguments], int] = lambda _arguments: 0
    variant: str = ""
    expected: Callable[..., Any] | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: {torch.float32: 2e-5})

    @property
    def name(self) -> str:
        return f"{self.op.name}-{self.variant}" if self.variant else self.op.name

    def arguments(
        self, sizes: Sizes, *, rows: int, device: str = "cpu", dtype: torch.dtype | None = None, seed: int = 0
    ) -> Arguments:
        return self.make(Maker(rows, device, dtype or self.dtypes[0], seed), sizes)

    def needed_bytes(self, arguments: Arguments, results: tuple[Tensor, ...]) -> int:
        """Each input once, each output once; of a slab only the rows that are named."""
        rows = len(arguments["slots"])
        moved = sum(tensor.nbytes for tensor in results)
        for name, tensor in arguments.items():
            if not isinstance(tensor, Tensor):
                continue
            if name in self.state or name in self.read:
                row_bytes = tensor.nbytes // len(tensor)
                moved += round(self.state.get(name, 1) * rows * row_bytes)
            else:
                moved += tensor.nbytes
        return moved


def outputs(result: Any) -> tuple[Tensor, ...]:
    """The tensors that an operation returned."""
    if result is None:
        return ()
    return (result,) if isinstance(result, Tensor) else tuple(result)
