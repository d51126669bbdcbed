"""Sessions side by side, each at its own position: reading, writing memories, encoding windows anew.

A session's life is cut at multiples of GRID tokens. At such a position, in this order: a write that is due
becomes active; an encoding that is due replaces the cache; at a boundary the durable state is taken and the
window begins to be encoded anew; the writes of due levels begin. What begins is computed in slices, beside
decoding or when its position comes, whichever is first: the result is the same.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hope_model.attention.cache import WindowCache
from hope_model.attention.config import GRID
from hope_model.attention.encoding import Encoding
from hope_model.attention.lesson import NOTHING, gather_lesson, teaching
from hope_model.attention.model import HopeAttention
from hope_model.attention.slabs import ParkedSlabs, RowSlabs
from hope_model.attention.together import step_together
from hope_model.attention.write import Write
from hope_model.errors import StateError
from hope_model.state import State
from hope_model.streaks import Frozen

PINNED = ("system", "template")
"""Origins of the leading tokens that stay in sight as the prefix."""
BoundaryOf = Callable[[int, int, State], None]
"""``(row, position, durable state there [1, ...])``."""


@dataclass(slots=True)
class _Session:
    """The host's side of a row; ``recent`` holds the last window of tokens and how each teaches."""

    position: int = 0
    prefix: list[int] = field(default_factory=list)
    leading: bool = True
    recent: list[tuple[int, int]] = field(default_factory=list)
    write: Write | None = None
    write_at: int = 0
    encoding: Encoding | None = None
    boundary: State | None = None
    update_norms: dict[str, float] | None = None
    divergence: float | None = None


class Counters(NamedTuple):
    """writes, refused: per level, those that were applied and those that were not. frozen: whether the row
    learns, and why it does not. good: the last boundary at which no streak of refused writes was open.
    """

    writes: tuple[int, ...]
    refused: tuple[int, ...]
    frozen: Frozen
    good: int


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that a row reads, up to :meth:`SessionRows.room` of them, and where each comes from.

    learn: which of them may teach, if their origin does; empty for all (E29). every: whether all of their
    logits are asked for, or the last one's.
    """

    row: int
    tokens: Sequence[int]
    origins: Sequence[str]
    learn: Sequence[bool] = ()
    every: bool = False


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A row that left its slabs, in the host's memory; for :meth:`SessionRows.unpark`."""

    session: _Session
    slabs: ParkedSlabs

    def tensors(self) -> list[Tensor]:
        return self.slabs.tensors()


class SessionRows:
    """``rows`` sessions of one model.

    Args:
        model: frozen.
        rows: how many.
        learn: False never writes: every session answers as theta does.
        on_boundary: called when a boundary's state has become worth storing.
    """

    def __init__(
        self,
        model: HopeAttention,
        rows: int,
        *,
        learn: bool = True,
        on_boundary: BoundaryOf = lambda _row, _position, _state: None,
    ) -> None:
        self.model = model
        self.learn = learn
        self._on_boundary = on_boundary
        self._slabs = RowSlabs(model, rows)
        self._sessions = [_Session() for _ in range(rows)]

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """The row becomes a session that has read nothing."""
        self._slabs.clear(row)
        self._sessions[row] = _Session()

    @torch.inference_mode()
    def load(self, row: int, state: State) -> None:
        """The row becomes ``state`` (``[1, ...]``), as :data:`BoundaryOf` gave it; its window is encoded."""
        self.clear(row)
        position, pinned = int(state["position"][0]), int(state["prefix_tokens"][0])
        memory = self.model.config.memory
        if position % memory.block or not 0 <= pinned <= memory.prefix:
            raise StateError(f"expected a state at a boundary, found {position} tokens, prefix {pinned}")
        self._slabs.load(row, state)
        session = self._sessions[row]
        session.position = position
        session.prefix = state["prefix"][0, :pinned].tolist()
        session.leading = position == 0
        if position:
            ids, flags = state["window"][0].tolist(), state["window_teaches"][0].tolist()
            session.recent = list(zip(ids, flags, strict=True))
            encoding = self._new_encoding(row)
            while encoding.slices:
                encoding.step()
            self._slabs.cache.copy(row, encoding.cache, 0)
            self._begin_writes(row, encoding)

    @torch.inference_mode()
    def freeze(self, row: int) -> None:
        """The row learns no more from its position on, a boundary, as its journal says."""
        self._slabs.state["frozen"][row] = int(Frozen.JOURNAL)
        self._sessions[row].write = None

    def room(self, row: int) -> int:
        """Tokens that one read may hold: those up to the next multiple of GRID."""
        return GRID - self._sessions[row].position % GRID

    @torch.inference_mode()
    def read(
        self, row: int, tokens: Sequence[int], origins: Sequence[str], learn: Sequence[bool] = ()
    ) -> Tensor:
        """Read up to :meth:`room` tokens of one session; returns the last one's logits ``[vocab]``, fp32.

        Args:
            learn: which of the tokens may teach, if their origin does; empty for all (E29).
        """
        return self.model.backbone.logits(self._outputs(row, tokens, origins, learn)[-1:])[0].float()

    @torch.inference_mode()
    def read_all(
        self, row: int, tokens: Sequence[int], origins: Sequence[str], learn: Sequence[bool] = ()
    ) -> Tensor:
        """:meth:`read` with the logits after every one of the tokens, ``[T, vocab]``, fp32."""
        return self.model.backbone.logits(self._outputs(row, tokens, origins, learn)).float()

    @torch.inference_mode()
    def decode(
        self,
        rows: Sequence[int],
        tokens: Sequence[int],
        origin: str = "model",
        learn: Sequence[bool] = (),
    ) -> Tensor:
        """One token for each of ``rows`` (distinct, ascending): logits ``[B, vocab]``, fp32.

        Args:
            learn: as :meth:`read` has it, of each row's token.
        """
        ids = self._ids([[token] for token in tokens])
        deltas, slots = self._slabs.deltas_of_batch(rows)
        x = self.model.read(self._slabs.cache, rows, ids, deltas, slots=slots)
        for row, token, flag in zip(rows, tokens, learn or [True] * len(rows), strict=True):
            self._advance(row, [token], [origin], [flag])
        return self.model.backbone.logits(x[:, 0])

    @property
    def reads_together(self) -> bool:
        """Whether :meth:`read_runs` can be had."""
        return self.model.reads_together

    @torch.inference_mode()
    def read_runs(self, runs: Sequence[Run]) -> list[Tensor | Exception]:
        """Read runs of distinct rows in one launch: of each the logits of its last token ``[1, vocab]``, or
        all ``[T, vocab]``, fp32; or what went wrong with this row alone.
        """
        for run in runs:
            self._require_room(run)
        rows = [run.row for run in runs]
        deltas, slots = self._slabs.deltas_of_batch(rows)
        x = self.model.read_runs(self._slabs.cache, rows, [run.tokens for run in runs], deltas, slots=slots)
        lengths = [len(run.tokens) if run.every else 1 for run in runs]
        if len(x) > sum(lengths):
            ends = itertools.accumulate(len(run.tokens) for run in runs)
            asked = [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]
            x = x[list(itertools.chain(*asked))]
        parts = self.model.backbone.logits(x).split(lengths)
        found: list[Tensor | Exception] = []
        for run, logits in zip(runs, parts, strict=True):
            try:
                self._advance(run.row, run.tokens, run.origins, run.learn)
            except Exception as error:
                found.append(error)
            else:
                found.append(logits)
        return found

    def slices(self, row: int) -> int:
        """Slices of work that could be computed for the row now."""
        session = self._sessions[row]
        waiting = session.write.slices if session.write is not None else 0
        return waiting + (session.encoding.slices if session.encoding is not None else 0)

    def deadline(self, row: int) -> int:
        """Tokens that the row may still read before its slices are due."""
        session = self._sessions[row]
        due = [session.write_at] if session.write is not None else []
        due += [session.encoding.active_at] if session.encoding is not None else []
        return min(due) - session.position if due else self.model.config.memory.block

    @torch.inference_mode()
    def work(self, rows: Sequence[int]) -> None:
        """Compute one slice of what each of ``rows`` (distinct) has begun; nothing happens without any."""
        writes: list[Write] = []
        for row in rows:
            session = self._sessions[row]
            if session.encoding is not None and session.encoding.slices:
                session.encoding.step()
                self._learn_from(row, session.encoding)
            elif session.write is not None and session.write.slices:
                writes.append(session.write)
        with torch.inference_mode(False):
            step_together(self.model, writes)

    @torch.inference_mode()
    def state(self, row: int) -> State:
        """A copy of the row's state as it stands, ``[1, ...]``; durable only at a boundary."""
        session = self._sessions[row]
        self._slabs.put_read(row, session.position, session.recent, session.prefix)
        return self._slabs.own_state(row)

    @torch.inference_mode()
    def park(self, row: int) -> ParkedRow | None:
        """A copy of the row for :meth:`unpark`; None while it has begun a write or an encoding."""
        session = self._sessions[row]
        if session.write is not None or session.encoding is not None:
            return None
        kept = replace(session, prefix=list(session.prefix), recent=list(session.recent))
        return ParkedRow(kept, self._slabs.park(row))

    @torch.inference_mode()
    def unpark(self, row: int, parked: ParkedRow) -> None:
        """The row becomes the parked one, bit for bit; what was parked is not used again."""
        self._slabs.unpark(row, parked.slabs)
        self._sessions[row] = parked.session

    def branch(self, row: int, count: int) -> tuple[WindowCache, dict[str, Tensor] | None]:
        """``count`` copies of the row's cache, and its active deltas: to go on without the session."""
        cache = self.model.new_cache(count)
        for copy in range(count):
            cache.copy(copy, self._slabs.cache, row)
        return cache, self._slabs.own_deltas(row)

    def teaching_tokens(self, origins: Sequence[str], learn: Sequence[bool] = ()) -> int:
        """How many tokens of these origins a row that learns is taught; ``learn`` as :meth:`read` has it."""
        flags = self._teaching(origins, learn) if self.learn else []
        return sum(flag != NOTHING for flag in flags)

    def position(self, row: int) -> int:
        return self._sessions[row].position

    def counters(self, rows: Sequence[int]) -> list[Counters]:
        """Of each of ``rows``."""
        chosen = torch.tensor(rows)
        columns = (self._slabs.state[name][chosen].tolist() for name in Counters._fields)
        return [
            Counters(tuple(writes), tuple(refused), Frozen(frozen), good)
            for writes, refused, frozen, good in zip(*columns, strict=True)
        ]

    def take_divergence(self, row: int) -> float | None:
        """Nats by which a canary's answers moved, once after a write that was judged."""
        session = self._sessions[row]
        divergence, session.divergence = session.divergence, None
        return divergence

    def take_update_norms(self, row: int) -> dict[str, float] | None:
        """Norm of each level's last change, once after a write."""
        session = self._sessions[row]
        norms, session.update_norms = session.update_norms, None
        return norms

    def drift(self, row: int) -> dict[str, float]:
        """Per level, norm of the deltas over the norm of the weights that they change."""
        own = {name: tensor[row : row + 1] for name, tensor in self._slabs.state.items()}
        return {level: float(ratio[0]) for level, ratio in self.model.drift(own).items()}

    def settle(self, row: int) -> None:
        """Compute all that the row has begun; it becomes active at its own position."""
        while self.slices(row):
            self.work([row])

    def _outputs(
        self, row: int, tokens: Sequence[int], origins: Sequence[str], learn: Sequence[bool]
    ) -> Tensor:
        """Read tokens of one session; the last block's output ``[T, D]``."""
        self._require_room(Run(row, tokens, origins))
        deltas, slots = self._slabs.deltas_of_batch([row])
        x = self.model.read(self._slabs.cache, [row], self._ids([tokens]), deltas, slots=slots)
        self._advance(row, tokens, origins, learn)
        return x[0]

    def _require_room(self, run: Run) -> None:
        room = self.room(run.row)
        if not 1 <= len(run.tokens) <= room or len(run.origins) != len(run.tokens):
            raise StateError(f"expected 1 to {room} tokens with origins, found {len(run.tokens)}")

    def _advance(
        self, row: int, tokens: Sequence[int], origins: Sequence[str], learn: Sequence[bool]
    ) -> None:
        session, memory = self._sessions[row], self.model.config.memory
        flags = self._teaching(origins, learn)
        for token, origin, flag in zip(tokens, origins, flags, strict=True):
            if session.leading:
                self._lead(row, token, origin)
            session.recent.append((token, flag))
            session.position += 1
        del session.recent[: -memory.window]
        if session.encoding is not None:
            session.encoding.offer(tokens)
        if session.position % GRID == 0:
            self._pass_grid(row)

    def _teaching(self, origins: Sequence[str], learn: Sequence[bool]) -> list[int]:
        """How each token teaches."""
        memory = self.model.config.memory
        allowed = learn or [True] * len(origins)
        return [
            teaching(origin, memory) if may else NOTHING for origin, may in zip(origins, allowed, strict=True)
        ]

    def _lead(self, row: int, token: int, origin: str) -> None:
        """Pin the tokens that the session begins with, as many as there is room for."""
        session = self._sessions[row]
        session.leading = origin in PINNED and len(session.prefix) < self.model.config.memory.prefix
        if session.leading:
            session.prefix.append(token)
            self._slabs.cache.rows[row].prefix = len(session.prefix)

    def _pass_grid(self, row: int) -> None:
        session, memory = self._sessions[row], self.model.config.memory
        encoded = session.encoding is not None and session.encoding.active_at == session.position
        if encoded:
            self._finish_encoding(row)  # the write that is due now may only begin here
        if session.write is not None and session.write_at == session.position:
            self._apply_write(row)
        if encoded:
            self._apply_encoding(row)
        if session.position % memory.block == 0:
            if self._learns(row) and not bool(self._slabs.state["streaks"][row].any()):
                self._slabs.state["good"][row] = session.position
            session.boundary = self.state(row)
            session.encoding = self._new_encoding(row)
        else:
            self._begin_writes(row, None)

    def _begin_writes(self, row: int, encoding: Encoding | None) -> None:
        """Start the writes of the levels due at this position (at a boundary: from the new encoding)."""
        session, memory = self._sessions[row], self.model.config.memory
        start = session.position if encoding is None else encoding.boundary
        levels = [level for level in memory.levels if start % level.period == 0]
        if not self._learns(row) or not levels:
            return
        reach = min(max(level.period for level in levels), start)
        recent = session.recent if encoding is None else encoding.recent
        with torch.inference_mode(False):
            cache, place = (self._slabs.cache, row) if encoding is None else (encoding.cache, 0)
            lesson = gather_lesson(self.model, cache, place, recent[-reach - 1 :], reach)
            if lesson is None:
                return
            session.write = Write(self.model, levels, self._slabs.own_state(row), lesson)
            session.write_at = start + memory.delay

    def _learn_from(self, row: int, encoding: Encoding) -> None:
        """The window has been encoded: what the block's end teaches can be computed."""
        if encoding.window_done:
            encoding.window_done = False
            self._begin_writes(row, encoding)

    def _apply_write(self, row: int) -> None:
        session = self._sessions[row]
        write, session.write = session.write, None
        assert write is not None
        with torch.inference_mode(False):
            written = write.finish()
        session.update_norms = self._slabs.put_written(row, written)
        session.divergence = written.divergence

    def _learns(self, row: int) -> bool:
        return self.learn and int(self._slabs.state["frozen"][row]) == Frozen.NO

    def _finish_encoding(self, row: int) -> None:
        encoding = self._sessions[row].encoding
        assert encoding is not None
        while encoding.slices:
            encoding.step()
            self._learn_from(row, encoding)

    def _apply_encoding(self, row: int) -> None:
        session = self._sessions[row]
        encoding, session.encoding = session.encoding, None
        assert encoding is not None
        self._slabs.cache.copy(row, encoding.cache, 0)
        boundary, session.boundary = session.boundary, None
        if boundary is not None:
            self._on_boundary(row, encoding.boundary, boundary)

    def _new_encoding(self, row: int) -> Encoding:
        session = self._sessions[row]
        deltas = self._slabs.own_deltas(row)
        return Encoding(self.model, session.position, session.prefix, session.recent, deltas)

    def _ids(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.model.backbone.device)
