"""What launches device work for sessions in slots: one runner per model family, chosen in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from hope_model.attention.model import HopeAttention
from hope_model.state import State, StateSpec
from hope_model.streaks import Frozen
from hope_server.engine.request import EngineConfig
from hope_server.engine.units import TokenRun, Unit, learn_flags


class ModelShape(Protocol):
    """What the engine needs of a model's configuration."""

    @property
    def block(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


class ServedModel(Protocol):
    """What every model family has; how it reads is its runner's business."""

    @property
    def config(self) -> ModelShape: ...
    @property
    def state_spec(self) -> StateSpec: ...
    def initial_state(self, rows: int) -> State: ...


@dataclass(frozen=True, slots=True)
class Counts:
    """A row's own counters, see ``hope_model.streaks``; the tuples follow ``spec.learning_levels``."""

    position: int
    writes: tuple[int, ...]
    refused: tuple[int, ...]
    frozen: Frozen = Frozen.NO
    good: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """What a launch made of one row: ``logits [vocab]`` after its last token, and its counters.

    every: ``[n, vocab]`` after each token of the unit, where the reading asked for it. boundary: position of
    a boundary whose state is now worth storing: no level had a write refused there, or nothing is learned.
    update_norm: per level, the norm of what was written; None when nothing was. divergence: nats by which a
    canary's answers moved, where a write was judged by one. best: the first of the largest logits, where it
    was found on the way.
    """

    logits: Tensor
    finite: bool
    counts: Counts
    boundary: int | None = None
    update_norm: dict[str, float] | None = None
    every: Tensor | None = None
    divergence: float | None = None
    best: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A unit that a slot's row is to read. every: with the logits after each of its tokens."""

    slot: int
    unit: Unit
    every: bool = False


@dataclass(frozen=True, slots=True)
class Parked:
    """A row in the host's memory, with all that it needs to go on bit for bit; ``bytes`` of tensors.

    content: the runner's own, read by :meth:`Runner.unpark` of the same runner.
    """

    bytes: int
    content: Any


@dataclass(frozen=True, slots=True)
class Backlog:
    """Work that a row may do beside decoding: ``slices``, due before it has read ``tokens`` more tokens."""

    slices: int
    tokens: int


class Runner(Protocol):
    """Rows by slot. Tokens come as units that :meth:`cut` and :meth:`step_unit` make."""

    @property
    def spec(self) -> StateSpec: ...
    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts that a step should read at most, all sessions together, beside one unit."""
        ...

    def cut(self, runs: Sequence[TokenRun], *, position: int) -> list[Unit]:
        """The units that take a row from ``position`` through ``runs``."""
        ...

    def step_unit(self, token: int, *, position: int, learn: bool) -> Unit:
        """The unit that reads a sampled token at ``position``; ``learn``: whether it may teach."""
        ...

    def teaching_tokens(self, unit: Unit) -> int:
        """How many of a unit's tokens a row that learns is taught."""
        ...

    def clear(self, slot: int) -> None:
        """The slot's row becomes the initial state."""
        ...

    def load(self, slot: int, row: State) -> None:
        """The slot's row becomes ``row`` (``[1, ...]``), a state at a boundary."""
        ...

    def freeze(self, slot: int) -> None:
        """The slot's row, at a boundary, learns no more."""
        ...

    def launch(self, readings: Sequence[Reading]) -> list[Output | Exception]:
        """Read units of distinct slots, in as few launches as the model allows; outputs in that order.

        What failed for one row alone stands in the place of its output. A state does not depend on what is
        read beside it.
        """
        ...

    def boundary(self, slot: int) -> State:
        """A host copy of the state at the boundary that the last output named, ``[1, ...]``."""
        ...

    def live(self, slot: int) -> State:
        """A host copy of the row as it stands, ``[1, ...]``."""
        ...

    def park(self, slot: int) -> Parked | None:
        """A host copy of the row, None while it has begun what cannot be moved."""
        ...

    def unpark(self, slot: int, parked: Parked) -> None:
        """The slot's row becomes the parked one, as if it had never left."""
        ...

    def counts(self, slot: int) -> Counts: ...
    def drift(self, slot: int) -> dict[str, float]:
        """Drift ratio of the live row, per learning level."""
        ...

    def backlog(self, slot: int) -> Backlog | None:
        """What the row has begun and not computed, None for nothing."""
        ...

    def work(self, slots: Sequence[int]) -> None:
        """Compute one slice of the backlog of each of ``slots``, in one pass where they can share it."""
        ...


class SingleUnits(Protocol):
    """A runner whose launches read one unit, or a step of several rows."""

    def run(self, slot: int, unit: Unit) -> Output:
        """Read a unit."""
        ...

    def run_every(self, slot: int, unit: Unit) -> Output:
        """As :meth:`run`, to the same state, with the logits after each of the unit's tokens."""
        ...

    def decode(self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool] = ()) -> list[Output]:
        """One token for each of ``slots`` (any number, distinct); outputs in that order.

        Args:
            learn: whether each token may teach; empty where all may.
        """
        ...


def launch_singly(runner: SingleUnits, readings: Sequence[Reading]) -> list[Output | Exception]:
    """:meth:`Runner.launch` by launches of one unit each, but for steps, which share one."""
    found: dict[int, Output | Exception] = {}
    for reading in readings:
        if reading.unit.kind != "step":
            run = runner.run_every if reading.every else runner.run
            try:
                found[reading.slot] = run(reading.slot, reading.unit)
            except Exception as error:
                found[reading.slot] = error
    steps = [reading for reading in readings if reading.unit.kind == "step"]
    slots, units = [step.slot for step in steps], [step.unit for step in steps]
    learn = learn_flags(not unit.learn or unit.learn[0] for unit in units)
    try:
        outputs = runner.decode(slots, [unit.tokens[0] for unit in units], learn) if steps else []
    except Exception as error:
        found.update(dict.fromkeys(slots, error))
    else:
        found.update(zip(slots, outputs, strict=True))
    return [found[reading.slot] for reading in readings]


def runner_for(model: ServedModel, config: EngineConfig) -> Runner:
    """The runner of the model's family."""
    if isinstance(model, HopeAttention):
        from hope_server.engine.attention_runner import AttentionRunner

        return AttentionRunner(model, slots=config.slots, learn=config.learn)
    from hope_server.engine.state_runner import SessionModel, StateRunner

    assert isinstance(model, SessionModel)
    return StateRunner(model, slots=config.slots, decode_rows=config.decode_rows)
