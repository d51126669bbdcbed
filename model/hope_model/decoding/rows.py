"""Rows of a frozen native Hope model that decode in place, any number of them in a step.

The same recurrences as ``Hope.step``, to rounding: slow products take bf16 operands where the CPU has them,
and so the compiled path reads what a session has learned; it is kept and written in fp32. A row's bits
depend neither on who shares its step nor on its place.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.decoder import Behind
from hope_kernels.torch_threads import one_thread
from hope_model.decoding.block import BlockRows, blocks_of, levels_of
from hope_model.decoding.compiled_path import CompiledPath
from hope_model.decoding.level import LevelRows
from hope_model.decoding.paths import PATHS, Path, fastest
from hope_model.decoding.phi import PhiRows
from hope_model.decoding.row import ParkedRow, Row
from hope_model.hope import Hope
from hope_model.state import State
from hope_model.streaks import LIMIT, Frozen

TOGETHER = 64
"""Tokens of one row that one call reads, at most."""
TRIED = (1, 2, 3)
"""Tokens that a kernel reads before it is trusted."""


class DecodeRows:
    """``rows`` sessions.

    Args:
        model: frozen; :func:`can_decode` holds for it.
        rows: how many.
        dtype: of the operands of slow products; the path's choice unless given.
        path: one of ``PATHS``; the fastest that works here unless given.
    """

    def __init__(
        self, model: Hope, rows: int, *, dtype: torch.dtype | None = None, path: str | None = None
    ) -> None:
        self.model = model
        arena = Arena()
        self._blocks = [BlockRows(block, rows, arena) for block in blocks_of(model)]
        self._rows = [self._fresh() for _ in range(rows)]
        self._path: Path
        if path is None:
            self._path = fastest(model, self._blocks, dtype, self._divergence)
        else:
            self._path = PATHS[path](model, self._blocks, dtype)

    @staticmethod
    def row_bytes(model: Hope) -> int:
        """Of one row."""
        return CompiledPath.row_bytes(model) + sum(
            PhiRows.row_bytes(model.config) + sum(LevelRows.row_bytes(level) for level in levels_of(block))
            for block in blocks_of(model)
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
        self._path.take_rows([row])

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
            phi = block.phi.state(row, own.run, self._path.pending(index, row, own.chunk))
            state |= {f"layers.{index}.phi.{name}": tensor for name, tensor in phi.items()}
            for level, kept in zip(block.levels, own.kept, strict=True):
                prefix = f"layers.{index}.{level.level.level.name}"
                state |= {f"{prefix}.{name}": tensor for name, tensor in level.state(row, kept).items()}
        return state

    @one_thread()
    @torch.inference_mode()
    def drift(self, row: int) -> dict[str, float]:
        """``Hope.drift`` of the row as it stands, without a copy of all that it holds."""
        learned: dict[str, list[Tensor]] = {level: [] for level in self._initial_norms}
        for rows in self._blocks:
            state = {f"phi.{name}": x for name, x in rows.phi.moved(row, self._rows[row].run).items()}
            for level in rows.levels:
                state[f"{level.level.level.name}.delta"] = level.slabs["delta"][row]
            for name, tensors in rows.block.learned_tensors().items():
                learned[name] += [state[tensor] for tensor in tensors]
        return {
            level: float(get_total_norm(tensors)) / self._initial_norms[level]
            for level, tensors in learned.items()
        }

    @cached_property
    def _initial_norms(self) -> dict[str, float]:
        """Per learning level, over all blocks: weights are frozen."""
        blocks = [rows.block.initial_norms() for rows in self._blocks]
        return {level: float(get_total_norm([own[level] for own in blocks])) for level in blocks[0]}

    @torch.inference_mode()
    def park(self, row: int) -> ParkedRow:
        """A copy of the row in its own form."""
        return ParkedRow(self._rows[row].copy(), tuple(slab[row].clone() for slab in self._slabs()))

    @torch.inference_mode()
    def unpark(self, row: int, parked: ParkedRow) -> None:
        """The row becomes what was parked, of the same model; it goes on as if it had never left."""
        self._rows[row] = parked.row.copy()
        for slab, own in zip(self._slabs(), parked.tensors, strict=True):
            slab[row] = own
        self._path.take_rows([row])

    @torch.inference_mode()
    def step(self, rows: Sequence[int], tokens: Sequence[int], learn: Sequence[bool] = ()) -> Tensor:
        """One token for each of ``rows`` (distinct, ascending): logits ``[B, vocab]``, fp32.

        ``learn``: whether each may teach the CMS levels (E29); empty for all.
        """
        stand = [self._rows[row] for row in rows]
        logits, wrote = self._path.step(rows, tokens, stand)
        self._advance(rows, wrote, learn or (True,) * len(rows))
        return logits

    @property
    def can_read(self) -> bool:
        """Whether :meth:`read` may be called."""
        return isinstance(self._path, CompiledPath)

    @torch.inference_mode()
    def read(self, row: int, tokens: Sequence[int], learn: Sequence[bool] = ()) -> Tensor:
        """Tokens of one row, one after the other, to the bits of so many steps: logits ``[vocab]``.

        ``learn``: whether each may teach the CMS levels; empty for all.
        """
        logits, teach = torch.empty(0), list(learn) or [True] * len(tokens)
        start = 0
        while start < len(tokens):
            end = start + self._until_an_end(row, teach[start:])
            logits = self._read(row, tokens[start:end], teach[start:end])
            start = end
        return logits

    def _read(self, row: int, tokens: Sequence[int], teach: Sequence[bool]) -> Tensor:
        assert isinstance(self._path, CompiledPath)
        if len(tokens) == 1:
            return self.step([row], tokens, teach)[0]
        own = self._rows[row]
        before = [slab[row].clone() for slab in self._moving()] if own.frozen is Frozen.NO else None
        stand = [own.copy()]
        for teaches in teach[:-1]:
            stand.append(self._after(stand[-1], teaches))
        logits, wrote = self._path.read(row, tokens, stand)
        if before is not None and not all(wrote):  # a third refused write in a row ends learning on the way
            for slab, tensor in zip(self._moving(), before, strict=True):
                slab[row] = tensor
            self._path.take_rows([row])
            for token, teaches in zip(tokens, teach, strict=True):
                logits = self.step([row], [token], [teaches])[0]
            return logits
        self._rows[row] = stand[-1]
        self._advance([row], wrote[-1:], teach[-1:])
        return logits

    def _after(self, own: Row, teaches: bool) -> Row:
        """Where a row stands after a token with which only a run may end."""
        after = own.copy()
        after.position += 1
        if own.frozen is Frozen.NO:
            after.run, after.chunk = (own.run + 1) % self._blocks[0].phi.run, own.chunk + 1
            self._count(after, 0, True)
            after.kept = [kept + teaches for kept in own.kept]
        return after

    def _until_an_end(self, row: int, teach: Sequence[bool]) -> int:
        """How many of the tokens come before, or are, the first with which more than a run ends; TOGETHER at
        most.
        """
        own, periods = self._rows[row], [self.model.config.chunk]
        kept = list(own.kept)
        periods += [level.period for level in self._blocks[0].levels]
        for place, teaches in enumerate(teach[:TOGETHER], start=1):
            kept = [count + teaches for count in kept]
            full = any(
                count == level.keeps for count, level in zip(kept, self._blocks[0].levels, strict=True)
            )
            if full or any((own.position + place) % period == 0 for period in periods):
                return place
        return min(len(teach), TOGETHER)

    def counts(self, row: int) -> tuple[int, tuple[int, ...], tuple[int, ...], Frozen, int]:
        """Tokens read; writes applied and refused, by level; why it does not learn; its good boundary."""
        own = self._rows[row]
        return own.position, tuple(own.writes), tuple(own.refused), own.frozen, own.good

    def _advance(self, rows: Sequence[int], applied: Sequence[bool], teach: Sequence[bool]) -> None:
        """The rows have read a token each; whatever ends with it is written. Of one that does not teach, the
        CMS levels keep nothing: what they have put down for it is overwritten.
        """
        learning, teaching = [], []
        for row, whole, teaches in zip(rows, applied, teach, strict=True):
            own = self._rows[row]
            own.position += 1
            if own.frozen is not Frozen.NO:
                continue
            own.run, own.chunk = own.run + 1, own.chunk + 1
            self._count(own, 0, whole)
            learning.append(row)
            if teaches:
                teaching.append(row)
        self._end_chunks(learning)
        for number in range(len(self.model.config.levels)):
            self._end_periods(number, teaching)
        for row in learning:
            own = self._rows[row]
            if own.position % self.model.config.block == 0 and not any(own.streaks):
                own.good = own.position

    def _end_chunks(self, rows: Sequence[int]) -> None:
        """Of those whose run or chunk ends with the token that they have read."""
        runs, chunks = [], []
        for row in rows:
            own = self._rows[row]
            chunk_ends = own.position % self.model.config.chunk == 0
            if chunk_ends or own.run == self._blocks[0].phi.run:
                runs.append(Behind(row, own.run))
                own.run = 0
            if chunk_ends:
                chunks.append(Behind(row, own.chunk))
                own.chunk = 0
        if runs:
            self._path.end_runs(runs)
        if chunks:
            for end, whole in zip(chunks, self._path.end_chunks(chunks), strict=True):
                self._count(self._rows[end.row], 1, whole)

    def _end_periods(self, number: int, rows: Sequence[int]) -> None:
        """One CMS level keeps the token; of rows whose period ends with it, the level is written."""
        level, full, due = self._blocks[0].levels[number], [], []
        for row in rows:
            own = self._rows[row]
            own.kept[number] += 1
            period_ends = own.position % level.period == 0
            if period_ends or own.kept[number] == level.keeps:
                full.append(Behind(row, own.kept[number]))
                own.kept[number] = 0
            if period_ends:
                due.append(row)
        if full:
            self._path.sum_gradients(number, full)
        for row in due:
            finite = [block.levels[number].write(row) for block in self._blocks]
            self._count(self._rows[row], 2 + number, all(map(bool, finite)))
        if due:
            self._path.take_level(number, due)

    def _slabs(self) -> Iterator[Tensor]:
        for block in self._blocks:
            yield from block.slabs()

    def _moving(self) -> Iterator[Tensor]:
        """What tokens change beside what they append and what ends with a chunk or a period."""
        for block in self._blocks:
            yield from (block.phi.slabs[name] for name in PhiRows.MOVING)
            yield from (level.slabs["last"] for level in block.levels)

    @torch.inference_mode()
    def _divergence(self, path: Path) -> float:
        """Nats by which row 0's answer after some tokens differs from the model's own; it is clear again."""
        state, self._path = self.model.initial_state(1), path
        expected = found = torch.empty(0)
        for token in TRIED:
            own = token % self.model.config.vocab_size
            expected, state = self.model.step(torch.tensor([own]), state)
            found = self.step([0], [own])
        self.clear(0)
        before, after = expected.log_softmax(-1), found.log_softmax(-1)
        return float((before.exp() * (before - after)).sum())

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


def _part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
