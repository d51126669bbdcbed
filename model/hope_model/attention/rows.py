"""Sessions side by side, each at its own position: reading, writing memories, encoding windows anew.

A session's life is cut at multiples of GRID tokens. At such a position, in this order: a write that is due
becomes active; an encoding that is due replaces the cache; at a boundary the durable state is taken and the
window begins to be encoded anew; the writes of due levels begin. What begins is computed in slices, beside
decoding or when its position comes, whichever is first: the result is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hope_model.attention.cache import WindowCache
from hope_model.attention.config import GRID
from hope_model.attention.encoding import Encoding
from hope_model.attention.lesson import NOTHING, gather_lesson, teaching
from hope_model.attention.model import HopeAttention
from hope_model.attention.write import Write, Written, step_together
from hope_model.errors import StateError
from hope_model.state import State
from hope_model.streaks import LIMIT, Frozen

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
    learned: bool = False
    write: Write | None = None
    write_at: int = 0
    encoding: Encoding | None = None
    boundary: State | None = None
    update_norms: dict[str, float] | None = None
    divergence: float | None = None


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A row that left its slabs, in the host's memory; for :meth:`SessionRows.unpark`."""

    session: _Session
    cache: WindowCache
    state: State
    active: dict[str, Tensor]

    def tensors(self) -> list[Tensor]:
        return [*self.cache.tensors(), *self.state.values(), *self.active.values()]


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
        self._cache = model.new_cache(rows)
        self._state = model.initial_state(rows)
        self._active = {
            site.name: torch.zeros(
                rows, *site.shape, dtype=model.backbone.dtype, device=model.backbone.device
            )
            for site in model.memory.sites
        }
        self._sessions = [_Session() for _ in range(rows)]

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """The row becomes a session that has read nothing."""
        self._cache.clear(row)
        for tensor in self._state.values():
            tensor[row].zero_()
        for tensor in self._active.values():
            tensor[row].zero_()
        self._sessions[row] = _Session()

    @torch.inference_mode()
    def load(self, row: int, state: State) -> None:
        """The row becomes ``state`` (``[1, ...]``), as :data:`BoundaryOf` gave it; its window is encoded."""
        self.clear(row)
        position, pinned = int(state["position"][0]), int(state["prefix_tokens"][0])
        memory = self.model.config.memory
        if position % memory.block or not 0 <= pinned <= memory.prefix:
            raise StateError(f"expected a state at a boundary, found {position} tokens, prefix {pinned}")
        for name, tensor in self._state.items():
            tensor[row].copy_(state[name][0])
        session = self._sessions[row]
        session.position = position
        session.prefix = state["prefix"][0, :pinned].tolist()
        session.leading = position == 0
        session.learned = self._learned(row)
        self._refresh(row)
        if position:
            ids, flags = state["window"][0].tolist(), state["window_teaches"][0].tolist()
            session.recent = list(zip(ids, flags, strict=True))
            encoding = self._new_encoding(row)
            while encoding.slices:
                encoding.step()
            self._cache.copy(row, encoding.cache, 0)
            self._begin_writes(row, encoding)

    @torch.inference_mode()
    def freeze(self, row: int) -> None:
        """The row learns no more from its position on, a boundary, as its journal says."""
        self._state["frozen"][row] = int(Frozen.JOURNAL)
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
        deltas, slots = self._deltas_of_batch(rows)
        x = self.model.read(self._cache, rows, ids, deltas, slots=slots)
        for row, token, flag in zip(rows, tokens, learn or [True] * len(rows), strict=True):
            self._advance(row, [token], [origin], [flag])
        return self.model.backbone.logits(x[:, 0])

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
        self._put_window(row)
        return {name: tensor[row : row + 1].clone() for name, tensor in self._state.items()}

    @torch.inference_mode()
    def park(self, row: int) -> ParkedRow | None:
        """A copy of the row for :meth:`unpark`; None while it has begun a write or an encoding."""
        session = self._sessions[row]
        if session.write is not None or session.encoding is not None:
            return None
        cache = WindowCache(self.model.config, 1, self.model.backbone.dtype, torch.device("cpu"))
        cache.copy(0, self._cache, row)
        state, active = (
            {name: tensor[row].to("cpu", copy=True) for name, tensor in tensors.items()}
            for tensors in (self._state, self._active)
        )
        kept = replace(session, prefix=list(session.prefix), recent=list(session.recent))
        return ParkedRow(kept, cache, state, active)

    @torch.inference_mode()
    def unpark(self, row: int, parked: ParkedRow) -> None:
        """The row becomes the parked one, bit for bit; what was parked is not used again."""
        self._cache.copy(row, parked.cache, 0)
        for tensors, own in ((self._state, parked.state), (self._active, parked.active)):
            for name, tensor in tensors.items():
                tensor[row].copy_(own[name])
        self._sessions[row] = parked.session

    def branch(self, row: int, count: int) -> tuple[WindowCache, dict[str, Tensor] | None]:
        """``count`` copies of the row's cache, and its active deltas: to go on without the session."""
        cache = self.model.new_cache(count)
        for copy in range(count):
            cache.copy(copy, self._cache, row)
        deltas = self._deltas([row])
        if deltas is None:
            return cache, None
        return cache, {name: tensor.clone() for name, tensor in deltas.items()}

    def teaching_tokens(self, origins: Sequence[str], learn: Sequence[bool] = ()) -> int:
        """How many tokens of these origins a row that learns is taught; ``learn`` as :meth:`read` has it."""
        flags = self._teaching(origins, learn) if self.learn else []
        return sum(flag != NOTHING for flag in flags)

    def position(self, row: int) -> int:
        return self._sessions[row].position

    def counts(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Writes applied and refused, per level."""
        return tuple(self._state["writes"][row].tolist()), tuple(self._state["refused"][row].tolist())

    def frozen(self, row: int) -> Frozen:
        """Whether the row learns, and why it does not."""
        return Frozen(int(self._state["frozen"][row]))

    def good(self, row: int) -> int:
        """The last boundary at which no streak of refused writes was open."""
        return int(self._state["good"][row])

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
        own = {name: tensor[row : row + 1] for name, tensor in self._state.items()}
        return {level: float(ratio[0]) for level, ratio in self.model.drift(own).items()}

    def settle(self, row: int) -> None:
        """Compute all that the row has begun; it becomes active at its own position."""
        while self.slices(row):
            self.work([row])

    def _outputs(
        self, row: int, tokens: Sequence[int], origins: Sequence[str], learn: Sequence[bool]
    ) -> Tensor:
        """Read tokens of one session; the last block's output ``[T, D]``."""
        if not 1 <= len(tokens) <= self.room(row) or len(origins) != len(tokens):
            raise StateError(f"expected 1 to {self.room(row)} tokens with origins, found {len(tokens)}")
        x = self.model.read(self._cache, [row], self._ids([tokens]), self._deltas([row]))
        self._advance(row, tokens, origins, learn)
        return x[0]

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
        self._state["position"][row] = session.position
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
            self._cache.rows[row].prefix = len(session.prefix)

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
            if self._learns(row) and not bool(self._state["streaks"][row].any()):
                self._state["good"][row] = session.position
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
            cache, place = (self._cache, row) if encoding is None else (encoding.cache, 0)
            lesson = gather_lesson(self.model, cache, place, recent[-reach - 1 :], reach)
            if lesson is None:
                return
            own = {name: tensor[row : row + 1].clone() for name, tensor in self._state.items()}
            session.write = Write(self.model, levels, own, lesson)
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
        squares: dict[str, float] = dict.fromkeys(written.applied, 0.0)
        for spec in self.model.state_spec.tensors:
            if spec.level in squares:
                tensor = written.state[spec.name][0]
                if spec.name.endswith(".delta"):
                    squares[spec.level] += float((tensor - self._state[spec.name][row]).square().sum())
                self._state[spec.name][row].copy_(tensor)
        session.update_norms = {level: square**0.5 for level, square in squares.items()}
        session.divergence = written.divergence
        self._count(row, written)
        session.learned = self._learned(row)
        self._refresh(row)

    def _count(self, row: int, written: Written) -> None:
        names = [level.name for level in self.model.config.memory.levels]
        streaks = self._state["streaks"][row]
        for level, applied in written.applied.items():
            index = names.index(level)
            self._state["writes" if applied else "refused"][row, index] += 1
            streaks[index] = 0 if applied else streaks[index] + 1
        if int(streaks.max()) >= LIMIT:
            self._state["frozen"][row] = int(written.refusal)

    def _learns(self, row: int) -> bool:
        return self.learn and self.frozen(row) is Frozen.NO

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
        self._cache.copy(row, encoding.cache, 0)
        boundary, session.boundary = session.boundary, None
        if boundary is not None:
            self._on_boundary(row, encoding.boundary, boundary)

    def _new_encoding(self, row: int) -> Encoding:
        session = self._sessions[row]
        deltas = self._deltas([row])
        own = None if deltas is None else {name: tensor.clone() for name, tensor in deltas.items()}
        return Encoding(self.model, session.position, session.prefix, session.recent, own)

    def _deltas(self, rows: Sequence[int]) -> dict[str, Tensor] | None:
        if not any(self._sessions[row].learned for row in rows):
            return None
        first, last = rows[0], rows[-1] + 1
        if last - first == len(rows):
            return {name: tensor[first:last] for name, tensor in self._active.items()}
        return {name: tensor[list(rows)] for name, tensor in self._active.items()}

    def _deltas_of_batch(self, rows: Sequence[int]) -> tuple[dict[str, Tensor] | None, Tensor | None]:
        """What the rows have learned: on a GPU all rows' deltas and which are meant, else their own."""
        device = self.model.backbone.device
        if device.type != "cuda" or not any(self._sessions[row].learned for row in rows):
            return self._deltas(rows), None
        return self._active, torch.tensor(list(rows), device=device)

    def _refresh(self, row: int) -> None:
        for name, tensor in self._active.items():
            tensor[row].copy_(self._state[f"{name}.delta"][row])

    def _learned(self, row: int) -> bool:
        return any(bool(self._state[f"{name}.delta"][row].any()) for name in self._active)

    def _put_window(self, row: int) -> None:
        session = self._sessions[row]
        count = len(session.recent)
        for name, values in (
            ("window", [token for token, _ in session.recent]),
            ("window_teaches", [flag for _, flag in session.recent]),
        ):
            self._state[name][row].zero_()
            self._state[name][row, :count] = torch.tensor(values, dtype=self._state[name].dtype)
        self._state["prefix"][row, : len(session.prefix)] = torch.tensor(session.prefix, dtype=torch.int32)
        self._state["prefix_tokens"][row] = len(session.prefix)

    def _ids(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.model.backbone.device)
