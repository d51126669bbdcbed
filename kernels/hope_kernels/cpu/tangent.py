"""The adapted layers of a Hope-Attention model over keys and values that stay, forward and back."""

import ctypes
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hope_kernels.cpu import tangent_layout as layout
from hope_kernels.cpu.build import load
from hope_kernels.cpu.frozen import LANES, FrozenWeights
from hope_kernels.cpu.reader import Reader
from hope_kernels.cpu.reader_layout import PROJECTIONS, Frozen
from hope_kernels.torch_threads import kernel_threads

SLOTS = 64
SlopeOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Transposes:
    """Of an adapted layer's products, by their names in ``tangent.h``, and of its sites' subspaces."""

    products: Mapping[str, FrozenWeights]
    subspaces: Mapping[str, FrozenWeights]


@dataclass(frozen=True, slots=True)
class Column:
    """``T`` tokens that see the same ``S`` slots, and the memory that they are read with.

    hidden: inputs of the first adapted layer ``[T, D]`` fp32. positions: ``[T]`` int64. bias: ``[T, S]``
    fp32. keys, values: by adapted layer ``[G, S, K]`` bf16. deltas: by site ``[rank, outputs]`` bf16, None
    where nothing was learned.
    """

    hidden: Tensor
    positions: Tensor
    bias: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    deltas: Sequence[Tensor | None]


class Passes:
    """Passes through the adapted layers. A token's bits depend neither on the others of its pass nor on the
    number of threads; one that is not finite is so alone.

    Args:
        reader: of the model.
        transposes: by adapted layer.
        sites: rank and outputs of each.
        cosines, sines: of all positions ``[P, K]``, the sines signed.

    Raises:
        BuildError: there is no kernel.
    """

    def __init__(
        self,
        reader: Reader,
        transposes: Sequence[Transposes],
        sites: Sequence[tuple[int, int]],
        cosines: Tensor,
        sines: Tensor,
    ) -> None:
        self._library = load("tangent")
        self._model = reader.structure
        self._sites = list(sites)
        self._cosines, self._sines = cosines, sines
        self._held: list[Any] = [reader, transposes]
        self._backs = (layout.Back * len(transposes))(*map(_back, transposes))
        self._at = ctypes.addressof(self._model)
        self._phases = torch.zeros(self._library.hope_tangent_phases(self._at), dtype=torch.uint8)
        self._scratch = torch.zeros(0, dtype=torch.uint8)
        self._room = (0, 0, 0)
        self._lock = threading.Lock()

    def forward(self, columns: Sequence[Column]) -> tuple[Tensor, list[Tensor]]:
        """Outputs of the last layer ``[N, D]`` and what enters the sites, ``A x [N, rank]``; all in fp32.

        Raises:
            IndexError: a position that there is none of.
        """
        with self._lock:
            return self._forward(self._call(columns))

    def tangent(
        self, columns: Sequence[Column], slope: SlopeOf, sites: Collection[int]
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """What enters the sites, and gradients at the outputs of some of them, ``[N, outputs]`` by number.

        Args:
            slope: outputs of the last layer ``[N, D]`` -> the gradient there, which is lost.
        """
        with self._lock:
            call = self._call(columns)
            x, inputs = self._forward(call)
            gradient = slope(x)
            slopes = {site: torch.empty(call.count, self._sites[site][1]) for site in sites}
            places = call.addresses([slopes.get(site) for site in range(len(self._sites))])
            call.structure.x, call.structure.slopes = gradient.data_ptr(), places
            self._library.hope_tangent_back(self._at, ctypes.addressof(call.structure), call.threads)
        return inputs, slopes

    def _forward(self, call: "_Call") -> tuple[Tensor, list[Tensor]]:
        x = torch.empty(call.count, self._model.width)
        inputs = [torch.empty(call.count, rank) for rank, _ in self._sites]
        call.structure.x, call.structure.inputs = x.data_ptr(), call.addresses(inputs)
        self._library.hope_tangent_forward(self._at, ctypes.addressof(call.structure), call.threads)
        return x, inputs

    def _call(self, columns: Sequence[Column]) -> "_Call":
        call = _Call(columns)
        positions = call.positions
        if not 0 <= int(positions.min()) <= int(positions.max()) < len(self._cosines):
            raise IndexError(f"expected positions from 0 to {len(self._cosines) - 1}, found others")
        self._reserve(call.count, max(column.bias.shape[1] for column in columns), len(columns))
        structure = call.structure
        structure.backs = ctypes.addressof(self._backs)
        structure.cosines, structure.sines = self._cosines.data_ptr(), self._sines.data_ptr()
        structure.scratch = self._scratch.data_ptr()
        structure.phases = self._phases.data_ptr() if call.threads > 1 else None
        structure.lines, structure.most_span, structure.most_asked = self._room
        return call

    def _reserve(self, count: int, span: int, asked: int) -> None:
        lines, most_span, most_asked = self._room
        room = (
            max(lines, -(-count // LANES) * LANES),
            max(most_span, -(-span // SLOTS) * SLOTS),
            max(most_asked, asked),
        )
        if room != self._room:
            # All or nothing: without memory for it, what there is stays and is known for what it is.
            size = self._library.hope_tangent_scratch(self._at, *room)
            self._scratch, self._room = torch.zeros(size, dtype=torch.uint8), room


class _Call:
    """What a pass is given, and what it points to."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.threads = kernel_threads()
        self._held: list[Any] = []
        counts = [len(column.hidden) for column in columns]
        self.count = sum(counts)
        self.positions = torch.cat([column.positions for column in columns])
        owners = torch.arange(len(columns)).repeat_interleave(torch.tensor(counts))
        hidden = torch.cat([column.hidden for column in columns])
        lessons = (layout.Lesson * len(columns))()
        first = 0
        for lesson, column, count in zip(lessons, columns, counts, strict=True):
            bias = column.bias.contiguous()
            lesson.keys, lesson.values, lesson.deltas = map(
                self.addresses, (column.keys, column.values, column.deltas)
            )
            lesson.bias, lesson.span = bias.data_ptr(), bias.shape[1]
            lesson.first, lesson.count = first, count
            self._held.append(bias)
            first += count
        self._held += [columns, owners, hidden, lessons]
        self.structure = layout.Tangent(
            lessons=ctypes.addressof(lessons),
            owners=owners.data_ptr(),
            positions=self.positions.data_ptr(),
            hidden=hidden.data_ptr(),
            count=self.count,
            asked=len(columns),
        )

    def addresses(self, tensors: Sequence[Tensor | None]) -> int:
        """Of a list of the addresses of dense tensors."""
        for tensor in tensors:
            assert tensor is None or tensor.is_contiguous()
        pointers = torch.tensor([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
        self._held += [tensors, pointers]
        return pointers.data_ptr()


def _back(layer: Transposes) -> layout.Back:
    subspaces = (Frozen * len(PROJECTIONS))()
    for number, projection in enumerate(PROJECTIONS):
        if projection in layer.subspaces:
            subspaces[number] = layer.subspaces[projection].structure
    products = {name: layer.products[name].structure for name in layout.Back.PRODUCTS}
    return layout.Back(subspaces=subspaces, **products)
