"""Runs Hope-Attention models: sessions in place by row, learning beside decoding."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from hope_model.attention.config import GRID
from hope_model.attention.model import HopeAttention
from hope_model.attention.rows import Run, SessionRows
from hope_model.state import State, on_host
from hope_model.streaks import Frozen
from hope_server.engine.runner import Backlog, Counts, Output, Parked, Reading, launch_singly
from hope_server.engine.sampling import Look, look
from hope_server.engine.units import TokenRun, Unit, cut_to_grid, learn_flags

PROMPT_TOKENS = 5 * GRID // 2
"""Of a step: two units, or three short ones, 70 ms where a step takes 20. One alone would take as long as the
step, for the weights that it reads again; more come near to five times a step.
"""


class AttentionRunner:
    """One row a slot. A token's bits depend neither on the cut of its run nor on who shares a launch.

    Args:
        model: frozen.
        slots: rows.
        learn: False writes no memory.
    """

    def __init__(self, model: HopeAttention, *, slots: int, learn: bool) -> None:
        self._rows = SessionRows(model, slots, learn=learn, on_boundary=self._keep_boundary)
        self._boundaries: dict[int, tuple[int, State]] = {}
        self._new_boundary: set[int] = set()
        self.spec = model.state_spec

    def cut(self, runs: Sequence[TokenRun], *, position: int) -> list[Unit]:
        """Runs up to the next position at which something may change."""
        return cut_to_grid(runs, position=position, grid=GRID)

    def step_unit(self, token: int, *, position: int, learn: bool) -> Unit:
        """One step; boundaries take no token of their own."""
        return Unit("step", (token,), ("model",), learn_flags([learn]))

    def teaching_tokens(self, unit: Unit) -> int:
        """Those whose origin teaches, in turns that learn."""
        return self._rows.teaching_tokens(unit.origins, unit.learn)

    def clear(self, slot: int) -> None:
        """The slot's row becomes the initial state."""
        self._forget_boundary(slot)
        self._rows.clear(slot)

    def load(self, slot: int, row: State) -> None:
        """The slot's row becomes ``row``; its window is encoded."""
        self._forget_boundary(slot)
        self._rows.load(slot, row)

    def freeze(self, slot: int) -> None:
        """The slot's row learns no more."""
        self._rows.freeze(slot)

    @property
    def prompt_tokens(self) -> int:
        """Where launches are shared."""
        return PROMPT_TOKENS if self._rows.reads_together else 1

    def launch(self, readings: Sequence[Reading]) -> list[Output | Exception]:
        """One launch, where the kernel reads runs and steps together."""
        if not self._rows.reads_together:
            return launch_singly(self, readings)
        units = [(reading.slot, reading.unit, reading.every) for reading in readings]
        found = self._rows.read_runs(
            [Run(slot, unit.tokens, unit.origins, unit.learn, every) for slot, unit, every in units]
        )
        pairs = list(zip(readings, found, strict=True))
        read = {own.slot: logits for own, logits in pairs if isinstance(logits, Tensor)}
        last = [logits[-1] for logits in read.values()]
        outputs = dict(zip(read, self._outputs(list(read), last), strict=True))
        for own, logits in pairs:
            if own.every and isinstance(logits, Tensor):
                outputs[own.slot] = replace(outputs[own.slot], every=logits)
        return [logits if isinstance(logits, Exception) else outputs[own.slot] for own, logits in pairs]

    def run(self, slot: int, unit: Unit) -> Output:
        """Read a run of tokens, or one step."""
        logits = self._rows.read(slot, unit.tokens, unit.origins, unit.learn)
        return self._outputs([slot], [logits])[0]

    def run_every(self, slot: int, unit: Unit) -> Output:
        """As :meth:`run`, with the logits after each token."""
        every = self._rows.read_all(slot, unit.tokens, unit.origins, unit.learn)
        return replace(self._outputs([slot], [every[-1]])[0], every=every)

    def decode(self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool] = ()) -> list[Output]:
        """One token for each of ``slots`` in one launch."""
        order = sorted(range(len(slots)), key=slots.__getitem__)
        flags = [learn[i] for i in order] if learn else ()
        logits = self._rows.decode([slots[i] for i in order], [tokens[i] for i in order], learn=flags)
        outputs = dict(zip(order, self._outputs([slots[i] for i in order], logits), strict=True))
        return [outputs[i] for i in range(len(slots))]

    def boundary(self, slot: int) -> State:
        """The state at the boundary that the last output named."""
        return self._boundaries[slot][1]

    def live(self, slot: int) -> State:
        """A host copy of the row as it stands."""
        return on_host(self._rows.state(slot))

    def park(self, slot: int) -> Parked | None:
        """Not while a write or an encoding waits for its position: these belong to the row."""
        parked = self._rows.park(slot)
        return None if parked is None else Parked(sum(tensor.nbytes for tensor in parked.tensors()), parked)

    def unpark(self, slot: int, parked: Parked) -> None:
        """The slot's row becomes the parked one."""
        self._forget_boundary(slot)
        self._rows.unpark(slot, parked.content)

    def counts(self, slot: int) -> Counts:
        return self._counts([slot])[0]

    def drift(self, slot: int) -> dict[str, float]:
        """Norm of what was learned over the norm of the weights it changes, per level."""
        return self._rows.drift(slot)

    def backlog(self, slot: int) -> Backlog | None:
        """Slices of a begun write or encoding."""
        slices = self._rows.slices(slot)
        return Backlog(slices, self._rows.deadline(slot)) if slices else None

    def work(self, slots: Sequence[int]) -> None:
        """One slice of each."""
        self._rows.work(slots)

    def _counts(self, slots: Sequence[int]) -> list[Counts]:
        found = zip(slots, self._rows.counters(slots), strict=True)
        return [Counts(self._rows.position(slot), *counters) for slot, counters in found]

    def _outputs(self, slots: Sequence[int], logits: Tensor | Sequence[Tensor]) -> list[Output]:
        if not slots:
            return []
        rows = logits.unbind() if isinstance(logits, Tensor) else logits
        return list(map(self._output, slots, rows, look(rows), self._counts(slots)))

    def _output(self, slot: int, logits: Tensor, seen: Look, counts: Counts) -> Output:
        boundary = None
        if slot in self._new_boundary:
            self._new_boundary.remove(slot)
            boundary = self._boundaries[slot][0]
        return Output(
            logits,
            seen.finite,
            counts,
            boundary,
            self._rows.take_update_norms(slot),
            divergence=self._rows.take_divergence(slot),
            best=seen.best,
        )

    def _keep_boundary(self, slot: int, position: int, state: State) -> None:
        if int(state["frozen"]) == Frozen.JOURNAL or int(state["good"]) == position:
            self._boundaries[slot] = (position, on_host(state))
            self._new_boundary.add(slot)

    def _forget_boundary(self, slot: int) -> None:
        """Of the session before, which may have failed before it could name it."""
        self._boundaries.pop(slot, None)
        self._new_boundary.discard(slot)
