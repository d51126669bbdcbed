"""A Hope-Attention model as the compiled kernel sees it: weights packed, rings of rows by address."""

import ctypes
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hope_kernels.cpu import reader_layout as layout
from hope_kernels.cpu.build import load
from hope_kernels.cpu.frozen import LANES, FrozenWeights
from hope_kernels.torch_threads import kernel_threads

MOST_SEEN = 1 << 16
"""Tokens in sight that a thread's stack has room for."""


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """products, gains: by their names in ``reader.h``; gains ``[D]`` or ``[K]`` fp32, None for none.
    subspaces: by projection, what is multiplied with at a site of a memory. turns: whether positions are
    applied.
    """

    products: Mapping[str, FrozenWeights]
    gains: Mapping[str, Tensor | None]
    subspaces: Mapping[str, FrozenWeights]
    turns: bool


@dataclass(frozen=True, slots=True)
class Rings:
    """keys, values: by layer ``[R, G, size, K]`` bf16. hidden, outputs: ``[R, size, D]`` fp32. Of each, a
    row is in one piece, and rows are equally far apart.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    hidden: Tensor
    outputs: Tensor
    capacity: int
    window: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where each of ``N`` tokens stands, those of a row one after the other. positions: in its cache.
    prefixes: pinned tokens of its row. memories: rows of the deltas, negative for none.
    """

    tokens: Sequence[int]
    rows: Sequence[int]
    positions: Sequence[int]
    prefixes: Sequence[int]
    memories: Sequence[int]


class Reader:
    """Reads tokens through rings, in place.

    Args:
        layers: in order; sites of memories are counted layer by layer, as ``PROJECTIONS`` has them.
        embedding: ``[vocab, D]`` bf16.
        sizes: of ``reader_layout.Reader``, but for the rank.
        epsilon: of norms.

    Raises:
        BuildError: there is no kernel.
    """

    def __init__(
        self, layers: Sequence[LayerTensors], embedding: Tensor, *, sizes: Mapping[str, int], epsilon: float
    ) -> None:
        self._library = load("attention")
        self._held: list[Any] = [layers, embedding]
        self._vocab, self._width = embedding.shape
        self._sites = 0
        structures = (layout.Layer * len(layers))(*map(self._layer, layers))
        self._held.append(structures)
        ranks = [part.rows for layer in layers for part in layer.subspaces.values()]
        self._model = layout.Reader(
            layers=ctypes.addressof(structures),
            embedding=embedding.data_ptr(),
            rank=max(ranks, default=0),
            epsilon=epsilon,
            **sizes,
        )
        self._at = ctypes.addressof(self._model)
        self._lines, self._capacity = 0, 0
        self._scratch = torch.zeros(0, dtype=torch.uint8)
        self._phases = torch.zeros(self._library.hope_reader_phases(self._at), dtype=torch.uint8)
        self._lock = threading.Lock()

    @property
    def structure(self) -> layout.Reader:
        """The model as kernels see it."""
        return self._model

    def read(
        self, places: Places, rings: Rings, deltas: Sequence[Tensor] | None, cosines: Tensor, sines: Tensor
    ) -> Tensor:
        """The last block's output ``[N, D]`` fp32.

        Args:
            deltas: by site ``[S, rank, outputs]`` bf16, dense; None where nothing was learned.
            cosines, sines: of all positions ``[P, K]``, the sines signed.

        Raises:
            IndexError: a token, row or position that there is none of.
        """
        count, (rows, size, _) = len(places.tokens), rings.hidden.shape
        _require_below(self._vocab, places.tokens)
        _require_below(rows, places.rows)
        _require_below(len(cosines), places.positions)
        _require_below(size, [min(position, rings.capacity - 1) for position in places.positions])
        if deltas is not None:
            _require_below(len(deltas[0]), [max(own, 0) for own in places.memories])
        numbers = (ctypes.c_int64 * (5 * count))(
            *places.tokens, *places.rows, *places.positions, *places.prefixes, *places.memories
        )
        pointers = [tensor.data_ptr() for tensor in (*rings.keys, *rings.values, *(deltas or ()))]
        slabs = (ctypes.c_void_p * len(pointers))(*pointers)
        at, line, address = ctypes.addressof(numbers), 8 * count, ctypes.addressof(slabs)
        layers, threads = 8 * len(rings.keys), kernel_threads()
        x = torch.empty(count, self._width)
        with self._lock:
            self._reserve(count, rings.capacity)
            launch = layout.Launch(
                tokens=at,
                rows=at + line,
                positions=at + 2 * line,
                prefixes=at + 3 * line,
                memories=at + 4 * line,
                deltas=None if deltas is None else address + 2 * layers,
                keys=address,
                values=address + layers,
                hidden=rings.hidden.data_ptr(),
                outputs=rings.outputs.data_ptr(),
                cosines=cosines.data_ptr(),
                sines=sines.data_ptr(),
                x=x.data_ptr(),
                scratch=self._scratch.data_ptr(),
                phases=self._phases.data_ptr() if threads > 1 else None,
                count=count,
                size=size,
                capacity=rings.capacity,
                window=rings.window,
                ring_step=rings.keys[0].stride(0),
                state_step=rings.hidden.stride(0),
                lines=self._lines,
            )
            self._library.hope_read(self._at, ctypes.addressof(launch), threads)
        return x

    def _reserve(self, count: int, capacity: int) -> None:
        if count <= self._lines and capacity <= self._capacity:
            return
        lines, most = max(self._lines, -(-count // LANES) * LANES), max(self._capacity, capacity)
        size = self._library.hope_reader_scratch(self._at, lines, most)
        # All or nothing: without memory for it, what there is stays and is known for what it is.
        self._scratch, self._lines, self._capacity = torch.zeros(size, dtype=torch.uint8), lines, most

    def _layer(self, layer: LayerTensors) -> layout.Layer:
        sites = (layout.Site * len(layout.PROJECTIONS))()
        for site, projection in zip(sites, layout.PROJECTIONS, strict=True):
            site.number = -1
            if projection in layer.subspaces:
                site.subspace, site.number = layer.subspaces[projection].structure, self._sites
                self._sites += 1
        return layout.Layer(
            sites=sites,
            turns=layer.turns,
            **{name: layer.products[name].structure for name in layout.Layer.PRODUCTS},
            **{name: _address(layer.gains[name]) for name in layout.Layer.GAINS},
        )


def _address(gain: Tensor | None) -> int | None:
    if gain is None:
        return None
    assert gain.is_contiguous()
    assert gain.dtype is torch.float32
    return gain.data_ptr()


def _require_below(end: int, numbers: Sequence[int]) -> None:
    if not 0 <= min(numbers) <= max(numbers) < end:
        raise IndexError(f"expected numbers from 0 to {end - 1}, found {min(numbers)} to {max(numbers)}")
