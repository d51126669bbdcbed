"""What sessions hold where they are computed, row by row: windows, states, the deltas that are read with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_model.attention.cache import WindowCache
from hope_model.attention.model import HopeAttention
from hope_model.attention.write import Written
from hope_model.state import COUNTERS, State
from hope_model.streaks import LIMIT


@dataclass(frozen=True, slots=True)
class ParkedSlabs:
    """A row that left its slabs, in the host's memory."""

    cache: WindowCache
    state: State
    active: dict[str, Tensor]
    learned: bool

    def tensors(self) -> list[Tensor]:
        return [*self.cache.tensors(), *self.state.values(), *self.active.values()]


class RowSlabs:
    """``rows`` rows of one model; each begins as a session that has read nothing.

    cache: of each row's window. state: durable at a boundary; its counters are the host's, which decides by
    them and does not wait for a device. active: deltas in the type that is served, by
    site, which follow those of the state at :meth:`refresh`.
    """

    def __init__(self, model: HopeAttention, rows: int) -> None:
        self._model = model
        self.cache = model.new_cache(rows, whole=True)
        counters = {spec.name for spec in model.state_spec.tensors if spec.level == COUNTERS}
        self.state = {
            name: tensor.cpu() if name in counters else tensor
            for name, tensor in model.initial_state(rows).items()
        }
        self.active = {
            site.name: torch.zeros(
                rows, *site.shape, dtype=model.backbone.dtype, device=model.backbone.device
            )
            for site in model.memory.sites
        }
        self._learned = [False] * rows

    def clear(self, row: int) -> None:
        """The row becomes a session that has read nothing."""
        self.cache.clear(row)
        for tensor in (*self.state.values(), *self.active.values()):
            tensor[row].zero_()
        self._learned[row] = False

    def load(self, row: int, state: State) -> None:
        """The cleared row's state becomes ``state`` (``[1, ...]``); its window stays empty."""
        for name, tensor in self.state.items():
            tensor[row].copy_(state[name][0])
        self.refresh(row)

    def own_state(self, row: int) -> State:
        """A copy of the row's state, ``[1, ...]``."""
        return {name: tensor[row : row + 1].clone() for name, tensor in self.state.items()}

    def put_read(
        self, row: int, position: int, recent: Sequence[tuple[int, int]], prefix: Sequence[int]
    ) -> None:
        """The state says how many tokens were read, and which are in sight: ``recent`` ones, with how each
        teaches, and the pinned ones.
        """
        self.state["position"][row] = position
        count = len(recent)
        for name, values in (
            ("window", [token for token, _ in recent]),
            ("window_teaches", [flag for _, flag in recent]),
        ):
            self.state[name][row].zero_()
            self.state[name][row, :count] = self.state[name].new_tensor(values)
        self.state["prefix"][row, : len(prefix)] = self.state["prefix"].new_tensor(prefix)
        self.state["prefix_tokens"][row] = len(prefix)

    def put_written(self, row: int, written: Written) -> dict[str, float]:
        """The row takes up a write, which becomes active; each due level's norm of change."""
        squares: dict[str, float] = dict.fromkeys(written.applied, 0.0)
        for spec in self._model.state_spec.tensors:
            if spec.level in squares:
                tensor = written.state[spec.name][0]
                if spec.name.endswith(".delta"):
                    squares[spec.level] += float((tensor - self.state[spec.name][row]).square().sum())
                self.state[spec.name][row].copy_(tensor)
        self._count(row, written)
        self.refresh(row)
        return {level: square**0.5 for level, square in squares.items()}

    def refresh(self, row: int) -> None:
        """What the state has learned is what tokens are read with."""
        learned = [self.state[f"{name}.delta"][row] for name in self.active]
        for tensor, own in zip(self.active.values(), learned, strict=True):
            tensor[row].copy_(own)
        self._learned[row] = any(bool(own.any()) for own in learned)

    def deltas(self, rows: Sequence[int]) -> dict[str, Tensor] | None:
        """The rows' active deltas, a view where they lie side by side; None if none has learned anything."""
        if not any(self._learned[row] for row in rows):
            return None
        first, last = rows[0], rows[-1] + 1
        if last - first == len(rows):
            return {name: tensor[first:last] for name, tensor in self.active.items()}
        return {name: tensor[list(rows)] for name, tensor in self.active.items()}

    def own_deltas(self, row: int) -> dict[str, Tensor] | None:
        """A copy of the row's active deltas; None if it has learned nothing."""
        deltas = self.deltas([row])
        return None if deltas is None else {name: tensor.clone() for name, tensor in deltas.items()}

    def deltas_of_batch(self, rows: Sequence[int]) -> tuple[dict[str, Tensor] | None, Tensor | None]:
        """:meth:`deltas`; for a GPU and for the compiled kernel all rows' deltas and which are meant."""
        device, compiled = self._model.backbone.device, self._model.reader is not None
        if not (compiled or device.type == "cuda") or not any(self._learned[row] for row in rows):
            return self.deltas(rows), None
        meant = [row if self._learned[row] or not compiled else -1 for row in rows]
        return self.active, torch.tensor(meant, device=device)

    def park(self, row: int) -> ParkedSlabs:
        """A copy of the row in the host's memory."""
        cache = WindowCache(self._model.config, 1, self._model.backbone.dtype, torch.device("cpu"))
        cache.copy(0, self.cache, row)
        state, active = (
            {name: tensor[row].to("cpu", copy=True) for name, tensor in tensors.items()}
            for tensors in (self.state, self.active)
        )
        return ParkedSlabs(cache, state, active, self._learned[row])

    def unpark(self, row: int, parked: ParkedSlabs) -> None:
        """The row becomes the parked one, bit for bit."""
        self.cache.copy(row, parked.cache, 0)
        for tensors, own in ((self.state, parked.state), (self.active, parked.active)):
            for name, tensor in tensors.items():
                tensor[row].copy_(own[name])
        self._learned[row] = parked.learned

    def _count(self, row: int, written: Written) -> None:
        names = [level.name for level in self._model.config.memory.levels]
        streaks = self.state["streaks"][row]
        for level, applied in written.applied.items():
            index = names.index(level)
            self.state["writes" if applied else "refused"][row, index] += 1
            streaks[index] = 0 if applied else streaks[index] + 1
        if int(streaks.max()) >= LIMIT:
            self.state["frozen"][row] = int(written.refusal)
