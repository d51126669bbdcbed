"""Rows of a frozen native Hope model that decode in place, any number of them in a step.

The same recurrences as ``Hope.step``, to rounding: slow products take bf16 operands where the CPU has them,
what a session has learned stays fp32. A row's bits depend neither on who shares its step nor on its place.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.packed_linear import can_pack
from hope_model.aggregations.chain import Chain
from hope_model.block import HopeBlock
from hope_model.cms import AssociativeLevel
from hope_model.decoding.level import LevelRows
from hope_model.decoding.phi import PhiRows
from hope_model.decoding.weights import Joined, rms, silu
from hope_model.hope import Hope
from hope_model.rules.delta import DeltaRule
from hope_model.state import State
from hope_model.streaks import LIMIT, Frozen

REFINED = 64
"""Likeliest tokens whose logits are computed in fp32: those of bf16 tie."""


@dataclass(slots=True)
class Row:
    """What a row has read and counted, see ``hope_model.streaks``. run, chunk, kept: tokens that φ's run, its
    chunk and each CMS level's gradient are behind.
    """

    position: int
    writes: list[int]
    refused: list[int]
    streaks: list[int]
    run: int
    chunk: int
    kept: list[int]
    frozen: Frozen = Frozen.NO
    good: int = 0


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A row taken out of its slabs: what :meth:`DecodeRows.unpark` puts back bit for bit."""

    row: Row
    tensors: tuple[Tensor, ...]


class BlockRows:
    """One block's part of every row."""

    def __init__(self, block: HopeBlock, rows: int, dtype: torch.dtype) -> None:
        assert isinstance(block.phi, DeltaRule)
        self.phi = PhiRows(block.phi, rows, dtype)
        self.levels = [LevelRows(_level(level), rows, dtype) for level in block.levels]
        self.phi_gain, self.mlp_gain = block.phi_norm.gain.detach(), block.mlp_norm.gain.detach()
        self._expand = Joined(block.mlp.expand, dtype=dtype)
        self._contract = Joined(block.mlp.contract, dtype=dtype)

    def mlp(self, x: Tensor) -> Tensor:
        gate, value = self._expand(rms(x, self.mlp_gain)).chunk(2, dim=-1)
        return self._contract(silu(gate) * value)


class DecodeRows:
    """``rows`` sessions.

    Args:
        model: frozen; :func:`can_decode` holds for it.
        rows: how many.
        dtype: of the operands of slow products; bf16 where the CPU has packed kernels for it, unless given.
    """

    def __init__(self, model: Hope, rows: int, *, dtype: torch.dtype | None = None) -> None:
        self.model = model
        weight = model.embedding.weight.detach()
        if dtype is None:
            dtype = torch.bfloat16 if can_pack(weight.to(torch.bfloat16)) else torch.float32
        self._embedding, self._scale = weight, math.sqrt(model.config.width)
        self._head = Joined(_head(model), dtype=dtype)
        self._gain = model.norm.gain.detach()
        self._blocks = [BlockRows(_block(block), rows, dtype) for block in model.blocks]
        self._rows = [self._fresh() for _ in range(rows)]

    @staticmethod
    def row_bytes(model: Hope) -> int:
        """Of one row."""
        return sum(
            PhiRows.row_bytes(model.config)
            + sum(LevelRows.row_bytes(_level(level)) for level in _block(block).levels)
            for block in model.blocks
        )

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """The row becomes a session that has read nothing."""
        self.load(row, self.model.initial_state(1))

    @torch.inference_mode()
    def load(self, row: int, state: State) -> None:
        """The row becomes ``state`` (``[1, ...]``), at any position."""
        self._rows[row] = self._fresh()
        own = self._rows[row]
        own.position = int(state["position"][0])
        own.writes, own.refused = state["writes"][0].tolist(), state["refused"][0].tolist()
        own.streaks, own.good = state["streaks"][0].tolist(), int(state["good"][0])
        own.frozen = Frozen(int(state["frozen"][0]))
        for index, block in enumerate(self._blocks):
            block.phi.load(row, _part(state, f"layers.{index}.phi."))
            for level in block.levels:
                level.load(row, _part(state, f"layers.{index}.{level.level.level.name}."))

    @torch.inference_mode()
    def state(self, row: int) -> State:
        """A copy of the row as it stands, ``[1, ...]``; the row goes on as if nobody had asked."""
        own = self._rows[row]
        state = {
            "position": torch.tensor([own.position]),
            "writes": torch.tensor([own.writes]),
            "refused": torch.tensor([own.refused]),
            "streaks": torch.tensor([own.streaks]),
            "frozen": torch.tensor([int(own.frozen)]),
            "good": torch.tensor([own.good]),
        }
        for index, block in enumerate(self._blocks):
            phi = block.phi.state(row, own.run, own.chunk)
            state |= {f"layers.{index}.phi.{name}": tensor for name, tensor in phi.items()}
            for level, kept in zip(block.levels, own.kept, strict=True):
                prefix = f"layers.{index}.{level.level.level.name}"
                state |= {f"{prefix}.{name}": tensor for name, tensor in level.state(row, kept).items()}
        return state

    @torch.inference_mode()
    def park(self, row: int) -> ParkedRow:
        """A copy of the row in its own form."""
        return ParkedRow(deepcopy(self._rows[row]), tuple(slab[row].clone() for slab in self._slabs()))

    @torch.inference_mode()
    def unpark(self, row: int, parked: ParkedRow) -> None:
        """The row becomes what was parked, of the same model; it goes on as if it had never left."""
        self._rows[row] = deepcopy(parked.row)
        for slab, own in zip(self._slabs(), parked.tensors, strict=True):
            slab[row] = own

    @torch.inference_mode()
    def step(self, rows: Sequence[int], tokens: Sequence[int], learn: Sequence[bool] = ()) -> Tensor:
        """One token for each of ``rows`` (distinct, ascending): logits ``[B, vocab]``, fp32.

        ``learn``: whether each may teach the CMS levels (E29); empty for all.
        """
        logits, start = [], 0
        for group in spans(rows):
            part = slice(start, start + len(group))
            logits.append(self._step(group, tokens[part], learn[part]))
            start += len(group)
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def counts(self, row: int) -> tuple[int, tuple[int, ...], tuple[int, ...], Frozen, int]:
        """Tokens read; writes applied and refused, by level; why it does not learn; its good boundary."""
        own = self._rows[row]
        return own.position, tuple(own.writes), tuple(own.refused), own.frozen, own.good

    def _step(self, rows: Sequence[int], tokens: Sequence[int], learn: Sequence[bool]) -> Tensor:
        """Computes all rows from the first to the last, since a slice of a slab costs no copy; what lies
        between is not written.
        """
        first, count = rows[0], rows[-1] + 1 - rows[0]
        span, index = slice(first, first + count), torch.tensor(rows)
        active = index - first
        ids = torch.zeros(count, dtype=torch.int64).index_copy_(0, active, torch.tensor(tokens))
        behind = torch.tensor([[own.run, own.chunk, *own.kept] for own in map(self._rows.__getitem__, rows)])
        runs, chunks, *kept = behind.unbind(1)
        learns = torch.tensor([self._rows[row].frozen is Frozen.NO for row in rows])
        x, wrote = F.embedding(ids, self._embedding) * self._scale, []
        for block in self._blocks:
            y, heads = block.phi.step(rms(x, block.phi_gain), span, active, index, runs, chunks, learns)
            x = x + y
            wrote.append(heads)
            for level, own in zip(block.levels, kept, strict=True):
                x = x + level.step(x, span, active, index, own)
            x = x + block.mlp(x)
        logits = self._logits(x[active])
        applied = torch.cat(wrote, dim=1).all(1).tolist()
        for row, whole, teaches in zip(rows, applied, learn or (True,) * len(rows), strict=True):
            self._advance(row, whole, teaches)
        return logits

    def _logits(self, x: Tensor) -> Tensor:
        normed = rms(x, self._gain)
        logits = self._head(normed)
        likely = logits.topk(min(REFINED, logits.shape[-1]), dim=-1).indices
        refined = (F.embedding(likely, self._embedding) * normed[:, None]).sum(-1)
        return logits.scatter(-1, likely, refined)

    def _advance(self, row: int, applied: bool, teaches: bool) -> None:
        """The row has read a token; whatever ends with it is written. Of one that does not teach, the CMS
        levels keep nothing: what they have put down for it is overwritten.
        """
        own, config = self._rows[row], self.model.config
        own.position += 1
        if own.frozen is not Frozen.NO:
            return
        own.run, own.chunk = own.run + 1, own.chunk + 1
        self._count(own, 0, applied)
        chunk_ends = own.position % config.chunk == 0
        if chunk_ends or own.run == self._blocks[0].phi.run:
            for block in self._blocks:
                block.phi.end_run(row, own.run)
            own.run = 0
        if chunk_ends:
            finite = [block.phi.end_chunk(row, own.chunk) for block in self._blocks]
            self._count(own, 1, all(map(bool, finite)))
            own.chunk = 0
        for number, level in enumerate(self._blocks[0].levels if teaches else ()):
            own.kept[number] += 1
            period_ends = own.position % level.period == 0
            if period_ends or own.kept[number] == level.keeps:
                for block in self._blocks:
                    block.levels[number].sum_gradient(row, own.kept[number])
                own.kept[number] = 0
            if period_ends:
                finite = [block.levels[number].write(row) for block in self._blocks]
                self._count(own, 2 + number, all(map(bool, finite)))
        if own.position % config.block == 0 and not any(own.streaks):
            own.good = own.position

    def _slabs(self) -> Iterator[Tensor]:
        for block in self._blocks:
            yield from block.phi.slabs()
            for level in block.levels:
                yield from level.slabs()

    @staticmethod
    def _count(own: Row, level: int, applied: bool) -> None:
        counters = own.writes if applied else own.refused
        counters[level] += 1
        own.streaks[level] = 0 if applied else own.streaks[level] + 1
        if own.streaks[level] >= LIMIT:
            own.frozen = Frozen.NON_FINITE

    def _fresh(self) -> Row:
        learning = len(self.model.state_spec.learning_levels)
        writes, refused, streaks = ([0] * learning for _ in range(3))
        return Row(0, writes, refused, streaks, 0, 0, [0] * len(self.model.config.levels))


def can_decode(model: Hope) -> bool:
    """Whether :class:`DecodeRows` takes ``model``: fp32 on a CPU with packed products, rule ``delta``, levels
    in a chain.
    """
    weight = model.embedding.weight
    return (
        can_pack(weight, single=True)
        and model.config.rule == "delta"
        and all(isinstance(_block(block).aggregation, Chain | None) for block in model.blocks)
    )


def spans(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """``rows`` (ascending) in groups that leave out at most as many rows between as they name."""
    if rows[-1] + 1 - rows[0] <= 2 * len(rows):
        yield rows
        return
    gaps = [late - early for early, late in pairwise(rows)]
    cut = gaps.index(max(gaps)) + 1
    yield from spans(rows[:cut])
    yield from spans(rows[cut:])


def _block(block: object) -> HopeBlock:
    assert isinstance(block, HopeBlock)
    return block


def _level(level: object) -> AssociativeLevel:
    assert isinstance(level, AssociativeLevel)
    return level


def _head(model: Hope) -> torch.nn.Linear:
    head = torch.nn.Linear(model.config.width, model.config.vocab_size, bias=False, device="meta")
    head.weight = torch.nn.Parameter(model.embedding.weight.detach(), requires_grad=False)
    return head


def _part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
