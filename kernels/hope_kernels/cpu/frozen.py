"""Frozen weights as the compiled kernel keeps and multiplies them."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.cpu import reader_layout as layout
from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.build import load
from hope_kernels.torch_threads import kernel_threads

LANES = 16
GROUP = 32
"""Inputs that share scale and zero in 4 bits."""


@dataclass(frozen=True)
class Whole:
    """Numbers 0 to 15 with bf16 ``scales`` and ``zeros [N, K / 32]`` for those 8 less; or of 8 bits with fp32
    scales ``[N]``. values: ``[N, K]`` int8.
    """

    values: Tensor
    scales: Tensor
    zeros: Tensor | None = None

    @property
    def kind(self) -> str:
        return "int8" if self.zeros is None else "int4"


@dataclass(frozen=True)
class Blocks:
    """What makes weights of bf16, bit by bit: ``values * scales + zeros``, rounded. kind: block4, values of 0
    to 15; or block8, -127 to 127, without zeros. scales, zeros: fp16 ``[N, K / 32]``.
    """

    kind: str
    values: Tensor
    scales: Tensor
    zeros: Tensor


class FrozenWeights:
    """``W [N, K]``, packed; a row's bits do not depend on its company, nor on the number of threads.

    Args:
        weight: bf16 on a CPU, or whole numbers with their scales. Of bf16 that was made from blocks of 4 or 8
            bits, as a converted GGUF file's is, the blocks are kept: the same numbers, fewer bytes.
        bias: ``[N]``.
        arena: where they are kept.

    Raises:
        BuildError: there is no kernel.
    """

    def __init__(self, weight: Tensor | Whole, bias: Tensor | None, arena: Arena) -> None:
        self._library = load("attention")
        kept = _blocks(self._library, weight) if isinstance(weight, Tensor) else weight
        values = (kept if isinstance(kept, Tensor) else kept.values).contiguous()
        self.rows, self.columns = values.shape
        self.kind = "bf16" if isinstance(kept, Tensor) else kept.kind
        """One of ``reader_layout.KINDS``: how they are kept."""
        self._bias = _filled(bias, self.rows)
        self._scales = _filled(
            kept.scales if isinstance(kept, Whole) and kept.zeros is None else None, self.rows
        )
        self.structure = layout.Frozen(
            scales=self._scales.data_ptr(),
            bias=self._bias.data_ptr(),
            outputs=self.rows,
            inputs=self.columns,
            kind=layout.KINDS.index(self.kind),
        )
        self._at = ctypes.addressof(self.structure)
        self._packed = arena.zeros(self._library.hope_frozen_bytes(self._at), dtype=torch.uint8)
        self.structure.weights = self._packed.data_ptr()
        groups = _groups(kept)
        at = [group.data_ptr() for group in groups] or (None, None)
        self._library.hope_frozen_pack(self._at, values.data_ptr(), *at, self._packed.data_ptr())
        self._line = int(self._library.hope_frozen_line(self._at))

    @property
    def in_blocks(self) -> bool:
        """Whether they are kept in fewer bits than they were given in."""
        return self.kind in ("block4", "block8")

    @property
    def nbytes(self) -> int:
        """Of what a product reads."""
        scales = self._scales.nbytes if self.kind == "int8" else 0
        return self._packed.nbytes + scales

    def unpacked(self) -> Tensor:
        """``[N, K]`` bf16: what is multiplied, before the scales of 8 bits."""
        whole = torch.zeros(self.rows, self.columns, dtype=torch.bfloat16)
        self._library.hope_frozen_unpack(self._at, whole.data_ptr())
        return whole

    def normed_product(self, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        """The product with the norm of ``x [..., K]`` fp32 under ``gain [K]`` fp32, rounded to bf16."""
        rows = x.reshape(-1, self.columns).contiguous()
        count = len(rows)
        operands = torch.empty(-(-count // LANES) * LANES, self._line, dtype=torch.bfloat16)
        y, totals = torch.empty(count, self.rows), torch.empty(count, self.columns // GROUP)
        self._library.hope_frozen_normed(
            self._at,
            rows.data_ptr(),
            gain.data_ptr(),
            epsilon,
            count,
            operands.data_ptr(),
            y.data_ptr(),
            totals.data_ptr(),
            kernel_threads(),
        )
        return y.view(*x.shape[:-1], self.rows)

    def product(self, x: Tensor) -> Tensor:
        """``x [..., K]`` bf16 -> ``x W^T + b [..., N]`` fp32."""
        rows = x.reshape(-1, self.columns)
        count = len(rows)
        # Tiles are read in sixteens of rows beyond the first, and in whole registers.
        more = -count % LANES if count > LANES else 0
        operands = F.pad(rows, (0, self._line - self.columns, 0, more)).contiguous()
        y, totals = torch.empty(count, self.rows), torch.empty(count, self.columns // GROUP)
        self._library.hope_frozen_multiply(
            self._at,
            operands.data_ptr(),
            count,
            y.data_ptr(),
            totals.data_ptr(),
            kernel_threads(),
        )
        return y.view(*x.shape[:-1], self.rows)


def _filled(values: Tensor | None, rows: int) -> Tensor:
    """fp32, zeros up to sixteens."""
    filled = torch.zeros(-(-rows // LANES) * LANES)
    if values is not None:
        filled[:rows] = values
    return filled


def _groups(kept: Tensor | Whole | Blocks) -> list[Tensor]:
    """Scales and zeros of groups, as the kernel takes them."""
    if isinstance(kept, Blocks):
        return [kept.scales, kept.zeros]
    if isinstance(kept, Whole) and kept.zeros is not None:
        return [part.bfloat16().contiguous() for part in (kept.scales, kept.zeros)]
    return []


def _blocks(library: ctypes.CDLL, weight: Tensor) -> Blocks | Tensor:
    """The blocks that ``weight [N, K]`` bf16 was made from; itself if it was not."""
    rows, columns = weight.shape
    if columns % GROUP:
        return weight
    weight = weight.contiguous()
    values = torch.empty(rows, columns, dtype=torch.int8)
    scales, zeros = (torch.empty(rows, columns // GROUP, dtype=torch.float16) for _ in range(2))
    parts = (values, scales, zeros)
    for kind in ("block4", "block8"):
        number, pointers = layout.KINDS.index(kind), [part.data_ptr() for part in parts]
        if library.hope_find_blocks(number, weight.numel() // GROUP, weight.data_ptr(), *pointers):
            return Blocks(kind, *parts)
    return weight
