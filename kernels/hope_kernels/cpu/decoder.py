"""A native Hope model as the compiled kernel sees it: weights packed, slabs by address."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hope_kernels.cpu import layout
from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.build import load
from hope_kernels.torch_threads import kernel_threads

Weight = tuple[Tensor, Tensor | None]
"""``[N, K]`` and a bias ``[N]``, fp32."""


class Behind(NamedTuple):
    """A row, and how many tokens it is behind with something that ends."""

    row: int
    tokens: int


class Place(NamedTuple):
    """A token and where it stands. run, chunk: tokens since the row's last run and chunk ended, below their
    lengths. kept: by level, tokens whose gradient is not summed, below what the level keeps. learns: whether
    φ is written.
    """

    row: int
    token: int
    run: int
    chunk: int
    kept: Sequence[int]
    learns: bool


@dataclass(frozen=True, slots=True)
class LevelTensors:
    """terms: key, value and rate, one below the other. gain: ``[D]``. base: ``[M, M]``. slabs: by names of
    ``model.h``.
    """

    terms: Weight
    output: Weight
    gain: Tensor
    base: Tensor
    slabs: Mapping[str, Tensor]
    keeps: int


@dataclass(frozen=True, slots=True)
class BlockTensors:
    """products, bases, weights, slabs: by their names in ``model.h``. bases: ``[H, V, K]``."""

    products: Mapping[str, Weight]
    bases: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    slabs: Mapping[str, Tensor]
    levels: Sequence[LevelTensors]


class Decoder:
    """Steps, in place, of rows whose slabs are given.

    Args:
        blocks: fp32, contiguous, on the CPU.
        embedding: ``[vocab, D]``, which is the head's weight too.
        gain: ``[D]`` of the last norm.
        sizes: of ``layout.Model``.
        scale: of embeddings. max_rate, max_norm: of φ.
        bf16: whether operands of slow products are rounded to it, and what rows have learned where tokens
            read it; else fp32.

    Raises:
        BuildError: there is no kernel.
    """

    def __init__(
        self,
        blocks: Sequence[BlockTensors],
        embedding: Tensor,
        gain: Tensor,
        *,
        sizes: Mapping[str, int],
        scale: float,
        max_rate: float,
        max_norm: float,
        bf16: bool,
    ) -> None:
        self._library, self._bf16 = load(), bf16
        self._held: list[Any] = []
        self._arena = Arena()
        self.row_bytes = 0
        """Of what is packed of a row."""
        self._rows = len(blocks[0].slabs["memory"])
        self._vocab, self._wrote = len(embedding), sizes["layers"] * sizes["heads"]
        structures = (layout.Block * len(blocks))(*map(self._block, blocks))
        self._held.append(structures)
        self._model = layout.Model(
            blocks=ctypes.addressof(structures),
            head=self._product((embedding, None)),
            embedding=self._address(embedding),
            gain=self._address(gain),
            rows=self._rows,
            scale=scale,
            max_rate=max_rate,
            max_norm=max_norm,
            **sizes,
        )
        self._at = ctypes.addressof(self._model)
        self._scratch = torch.zeros(0, int(self._library.hope_scratch(self._at)))
        self._phases = torch.zeros(int(self._library.hope_phases(self._at)), dtype=torch.uint8)

    def step(self, places: Sequence[Place]) -> tuple[Tensor, list[bool]]:
        """One token of each of some rows, distinct: logits ``[B, vocab]``, and whether every write of φ was
        finite. Raises IndexError for a row or a token that there is none of.
        """
        return self._run(places, torch.empty(len(places), self._vocab), sequence=False)

    def read(self, places: Sequence[Place]) -> tuple[Tensor, list[bool]]:
        """Tokens of one row, one after the other: logits ``[vocab]`` of the last one, and as :meth:`step`, to
        the same bits. Runs that end before the last token are ended; no chunk may, nor what a level keeps.
        """
        return self._run(places, torch.empty(self._vocab), sequence=True)

    def _run(self, places: Sequence[Place], logits: Tensor, *, sequence: bool) -> tuple[Tensor, list[bool]]:
        rows, tokens, runs, chunks, kept, learns = zip(*places, strict=True)
        if not (0 <= min(rows) <= max(rows) < self._rows and 0 <= min(tokens) <= max(tokens) < self._vocab):
            raise IndexError(f"expected rows below {self._rows} and tokens below {self._vocab}")
        # No large operation of torch here: its threads look out for more work on the cores that ours need.
        count, threads = len(rows), kernel_threads()
        if len(self._scratch) < count:
            self._scratch = torch.zeros(count, self._scratch.shape[1])
        numbers = torch.tensor([*rows, *tokens, *runs, *chunks, *chain.from_iterable(kept)])
        flags = torch.tensor(learns, dtype=torch.uint8)
        wrote = torch.zeros(count, self._wrote, dtype=torch.uint8)
        at, size = numbers.data_ptr(), 8 * count
        step = layout.Step(
            rows=at,
            tokens=at + size,
            runs=at + 2 * size,
            chunks=at + 3 * size,
            kept=at + 4 * size,
            learns=flags.data_ptr(),
            wrote=wrote.data_ptr(),
            logits=logits.data_ptr(),
            scratch=self._scratch.data_ptr(),
            phases=self._phases.data_ptr() if threads > 1 else None,
            count=count,
            sequence=sequence,
        )
        self._library.hope_decode(self._at, ctypes.addressof(step), threads)
        return logits, wrote.all(1).tolist()

    def end_runs(self, ends: Sequence[Behind]) -> None:
        """The rows' matrix memories take up the tokens that they are behind."""
        rows, tokens = _columns(ends)
        self._library.hope_end_runs(self._at, rows, tokens, len(ends), kernel_threads())

    def sum_gradients(self, level: int, ends: Sequence[Behind]) -> None:
        """The rows' gradients of a level take up the tokens that they are behind."""
        rows, tokens = _columns(ends)
        self._library.hope_sum_gradients(self._at, level, rows, tokens, len(ends), kernel_threads())

    def end_chunks(self, ends: Sequence[Behind]) -> list[bool]:
        """The rows' projections take up the tokens of their chunk, in all blocks; whether all that a row
        writes is finite. A run ends before.
        """
        rows, tokens = _columns(ends)
        applied = torch.zeros(len(ends), self._wrote, dtype=torch.uint8)
        threads = kernel_threads()
        self._library.hope_end_chunks(self._at, rows, tokens, len(ends), applied.data_ptr(), threads)
        return applied.all(1).tolist()

    def pack_rows(self, rows: Sequence[int]) -> None:
        """All slabs of these rows have been written to: tokens read what they hold now."""
        self._library.hope_pack_rows(self._at, _numbers(rows), len(rows), kernel_threads())

    def pack_level(self, level: int, rows: Sequence[int]) -> None:
        """Those of one level have."""
        self._library.hope_pack_level(self._at, level, _numbers(rows), len(rows), kernel_threads())

    def pending(self, layer: int, row: int, tokens: int, like: Tensor) -> Tensor:
        """A block's projections as ``tokens`` of a chunk leave them, of the shape of ``like``."""
        pending = torch.zeros_like(like)
        self._library.hope_pending(self._at, layer, row, tokens, pending.data_ptr())
        return pending

    def _block(self, block: BlockTensors) -> layout.Block:
        levels = (layout.Level * len(block.levels))(*map(self._level, block.levels))
        self._held.append(levels)
        return layout.Block(
            levels=ctypes.addressof(levels),
            **{name: self._product(block.products[name]) for name in layout.Block.PRODUCTS},
            **{f"{name}_base": self._products(block.bases[name]) for name in layout.Block.LEARNED},
            **{name: self._address(block.weights[name]) for name in layout.Block.WEIGHTS},
            **{name: self._address(block.slabs[name]) for name in layout.Block.SLABS},
            **{f"{name}_learned": self._learned(block.slabs[name]) for name in layout.Block.LEARNED},
        )

    def _level(self, level: LevelTensors) -> layout.Level:
        return layout.Level(
            terms=self._product(level.terms),
            output=self._product(level.output),
            gain=self._address(level.gain),
            base=self._product((level.base, None)),
            learned=self._learned(level.slabs["delta"]),
            width=level.output[0].shape[1],
            keeps=level.keeps,
            **{name: self._address(tensor) for name, tensor in level.slabs.items()},
        )

    def _product(self, weight: Weight) -> layout.Product:
        matrix, bias = weight
        matrix = matrix.detach().contiguous()
        outputs, inputs = matrix.shape
        packed = self._arena.zeros(packed_size(outputs, inputs, bf16=self._bf16), dtype=torch.int32)
        padded = torch.zeros(16 * -(-outputs // 16))
        if bias is not None:
            padded[:outputs] = bias
        product = layout.Product(
            weights=self._address(packed),
            bias=self._address(padded),
            outputs=outputs,
            inputs=inputs,
            bf16=self._bf16,
        )
        self._library.hope_pack(ctypes.addressof(product), matrix.data_ptr(), packed.data_ptr())
        return product

    def _products(self, matrices: Tensor) -> int:
        products = (layout.Product * len(matrices))(*(self._product((own, None)) for own in matrices))
        self._held.append(products)
        return ctypes.addressof(products)

    def _learned(self, slab: Tensor) -> int:
        """Of a slab for what matrices ``[..., V, K]`` have learned, packed: nothing yet."""
        *matrices, outputs, inputs = slab.shape
        size = packed_size(outputs, inputs, bf16=self._bf16)
        packed = self._arena.zeros(*matrices, size, dtype=torch.int32)
        self.row_bytes += packed[0].nbytes
        return self._address(packed)

    def _address(self, tensor: Tensor) -> int:
        """Of a tensor that is held from now on."""
        assert tensor.is_contiguous()
        assert (tensor.element_size(), tensor.device.type) == (4, "cpu")
        self._held.append(tensor)
        return tensor.data_ptr()


def packed_size(outputs: int, inputs: int, *, bf16: bool) -> int:
    """Numbers of 32 bits of a packed matrix, as in ``learned.h``."""
    return 16 * -(-outputs // 16) * (16 * -(-inputs // 32) if bf16 else inputs)


def _columns(ends: Sequence[Behind]) -> tuple[Any, Any]:
    """Rows and tokens, as the kernel takes them."""
    return _numbers([end.row for end in ends]), _numbers([end.tokens for end in ends])


def _numbers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)
