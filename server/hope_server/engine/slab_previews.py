"""Live states on a GPU: rows of one slab, stepped in place, in launches of few sizes that become graphs."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from hope_model.hope import Hope
from hope_model.state import State, gather_state, host_copy
from hope_model.streaks import COUNTER_NAMES
from hope_server.engine.decode_sizes import DecodeSizes, GraphPlan, How, Launch
from hope_server.engine.graphs import Graph, Graphs, without_graphs
from hope_server.engine.previews import GroupParked, counts_of, drift_of, pack_counts, read_counts
from hope_server.engine.runner import Counts
from hope_server.engine.slab import Slab

GRAPH_BYTES = 1 << 30
"""Device memory that all graphs together may take."""
PROBED_STEPS = 3
NOBODY = -1

log = logging.getLogger(__name__)


class SlabPreviews:
    """See ``previews.Previews``. Of ``sizes`` those are used that give a row the bits of the largest one, as
    this device is asked at the start: a row's bits do not depend on who shares its step.

    Args:
        model: on a GPU.
        slots: rows.
        sizes: of a launch, ascending.
        graphs: makes a launch one call.
    """

    def __init__(self, model: Hope, slots: int, sizes: Sequence[int], graphs: Graphs) -> None:
        self._slab = Slab(model.initial_state(1), slots)
        self._model, self._slots = model, slots
        self._steps = {size: StepLaunch(model, self._slab.rows, size) for size in sizes}
        self._graphs, self._plan = graphs, GraphPlan(GRAPH_BYTES)
        self.sizes = DecodeSizes(self._repeatable(sizes))
        log.info("decode steps in launches of %s rows", ", ".join(map(str, self.sizes.sizes)))
        self.clear, self.write, self.state = self._slab.clear, self._slab.write, self._slab.view

    def park(self, slot: int) -> GroupParked:
        return GroupParked(host_copy(self._slab.view(slot)))

    def unpark(self, slot: int, parked: GroupParked) -> None:
        self._slab.write(slot, parked.state)

    def counts(self, slot: int) -> Counts:
        return counts_of(self._slab.view(slot))[0]

    def drift(self, slot: int) -> dict[str, float]:
        return drift_of(self._model, self._slab.view(slot))

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool]
    ) -> tuple[Tensor, list[Counts]]:
        logits, counts = [], []
        for launch in self.sizes.cut(len(slots)):
            part = slice(launch.first, launch.first + launch.rows)
            step = self._steps[launch.size]
            step.fill(slots[part], tokens[part], learn[part])
            found, packed = self._launch(step, launch)
            logits.append(found[: launch.rows].clone())  # the next launch of this size writes over it
            counts += read_counts(packed[: launch.rows])
        return torch.cat(logits), counts

    def _launch(self, step: "StepLaunch", launch: Launch) -> tuple[Tensor, Tensor]:
        how = self._plan.next(launch.size)
        if how is How.CAPTURE and self._capture(step):
            how = How.REPLAY
        return step.replay() if how is How.REPLAY else step.run()

    def _capture(self, step: "StepLaunch") -> bool:
        """Whether there is a graph of it now."""
        try:
            graph = step.capture(self._graphs)
        except RuntimeError as error:
            self._plan.failed()
            for each in self._steps.values():
                each.graph = None
            without_graphs(error)
            return False
        step.graph = graph if self._plan.captured(step.size, graph.bytes) else None
        return step.graph is not None

    @torch.inference_mode()
    def _repeatable(self, sizes: Sequence[int]) -> list[int]:
        """Those that give rows the bits of the largest, in some steps of fresh ones."""
        *smaller, most = sizes
        expected = self._probe(most, min(most, self._slots))
        return [size for size in smaller if self._agrees(size, expected)] + [most]

    def _agrees(self, size: int, expected: list[State]) -> bool:
        rows = min(size, self._slots)
        return all(
            torch.equal(tensor, one[name][:rows])
            for found, one in zip(self._probe(size, rows), expected, strict=True)
            for name, tensor in found.items()
        )

    def _probe(self, size: int, rows: int) -> list[State]:
        """After each step of fresh rows, their states and logits; the rows are fresh again then."""
        step, found = self._steps[size], []
        slots = range(rows)
        for number in range(PROBED_STEPS):
            step.fill(slots, [number + 1 + slot % 7 for slot in slots], ())
            logits, _ = step.run()
            found.append(self._slab.gather(slots) | {"logits": logits[:rows].clone()})
        for slot in slots:
            self._slab.clear(slot)
        return found


class StepLaunch:
    """A step of ``size`` rows of a slab, of which some may be nobody's. Its inputs, ``[3, size]``, are always
    the same tensor: tokens, slots, and whether each token may teach.
    """

    def __init__(self, model: Hope, slab: State, size: int) -> None:
        self._model, self._slab, self.size = model, slab, size
        device = slab["position"].device
        self._inputs = torch.zeros(3, size, dtype=torch.int64, device=device)
        self.graph: Graph | None = None

    def fill(self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool]) -> None:
        """The rows of the next launch; the rest are nobody's."""
        missing = self.size - len(slots)
        rows = (
            [*tokens, *[0] * missing],
            [*slots, *[NOBODY] * missing],
            [*map(int, learn or [True] * len(slots)), *[1] * missing],
        )
        self._inputs.copy_(torch.tensor(rows))

    def run(self) -> tuple[Tensor, Tensor]:
        """Logits ``[size, vocab]`` and packed counters of the rows after their token."""
        tokens, slots, learn = self._inputs.unbind(0)
        logits = self._model.step_rows(tokens, self._slab, slots, learn != 0)
        counters = {name: self._slab[name] for name in COUNTER_NAMES}
        return logits, pack_counts(gather_state(counters, slots))

    def capture(self, graphs: Graphs) -> Graph:
        """As a graph, captured on nobody's rows, so that nothing changes; the inputs stay."""
        kept = self._inputs.clone()
        self.fill((), (), ())
        try:
            return graphs.capture(self.run)
        finally:
            self._inputs.copy_(kept)

    def replay(self) -> tuple[Tensor, Tensor]:
        """:meth:`run` as it was captured, on what the inputs hold now."""
        assert self.graph is not None
        self.graph.replay()
        logits, packed = self.graph.outputs
        return logits, packed
