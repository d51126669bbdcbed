"""Runs models whose state is a value: block passes, runs and decode steps over session rows."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from hope_model.state import COUNTERS, State, StateSpec, host_copy
from hope_model.streaks import Frozen
from hope_server.engine.previews import ExactPreviews, counts_of, previews_of
from hope_server.engine.runner import Counts, ModelShape, Output, Parked, Reading, launch_singly
from hope_server.engine.sampling import look
from hope_server.engine.slab import Slab
from hope_server.engine.units import TokenRun, Unit, cut, learn_flags


@runtime_checkable
class SessionModel(Protocol):
    """A model whose sessions learn; shapes as in ``hope_model.hope.Hope``. States go in and come out as
    values. ``learn``, of ``tokens``' shape: which of them may teach, None for all.
    """

    @property
    def config(self) -> ModelShape: ...
    @property
    def state_spec(self) -> StateSpec: ...
    def initial_state(self, rows: int) -> State: ...
    def step(self, tokens: Tensor, state: State, learn: Tensor | None = ...) -> tuple[Tensor, State]: ...
    def prefill(self, tokens: Tensor, state: State, learn: Tensor | None = ...) -> tuple[Tensor, State]: ...
    def block_pass(
        self, tokens: Tensor, state: State, learn: Tensor | None = ...
    ) -> tuple[Tensor, State]: ...
    def forward(self, tokens: Tensor, state: State, learn: Tensor | None = ...) -> tuple[Tensor, State]: ...
    def drift(self, state: State) -> dict[str, Tensor]: ...


class StateRunner:
    """Two rows a slot, ``boundary`` (the state at the last one) and ``live`` (the preview inside the block),
    and the tokens of the open block, each with whether it may teach.

    A boundary is reached by a block pass, which has one shape: so its bits depend on the block's tokens
    alone. Those of exact previews do anyway, and no pass is needed.
    """

    prompt_tokens = 1
    """A step waits for each unit; it reads one."""

    def __init__(self, model: SessionModel, *, slots: int, decode_rows: int) -> None:
        self._model = model
        initial = model.initial_state(1)
        self._device = initial["position"].device
        self._boundary = Slab(initial, slots)
        self._live = previews_of(model, slots=slots, group=decode_rows)
        self._exact = self._live if isinstance(self._live, ExactPreviews) else None
        self._tails: list[list[tuple[int, bool]]] = [[] for _ in range(slots)]
        self.spec = model.state_spec
        self.block_size = model.config.block

    def cut(self, runs: Sequence[TokenRun], *, position: int) -> list[Unit]:
        """Whole blocks, then runs and steps inside the open one."""
        return cut(runs, tail=position % self.block_size, block=self.block_size)

    def step_unit(self, token: int, *, position: int, learn: bool) -> Unit:
        """A step, or the token that completes the block."""
        kind: Literal["block", "step"] = "block" if (position + 1) % self.block_size == 0 else "step"
        return Unit(kind, (token,), learn=learn_flags([learn]))

    def run(self, slot: int, unit: Unit) -> Output:
        """Read a unit: a block pass over the open block and the unit's tokens, or a run inside the block."""
        if self._exact is not None:
            return self._read_exactly(self._exact, slot, unit)
        tail = self._tails[slot]
        new = list(zip(unit.tokens, unit.learn or (True,) * len(unit.tokens), strict=True))
        if unit.kind == "block":
            block = tail + new
            output = self.block(slot, [token for token, _ in block], learn_flags(on for _, on in block))
            tail.clear()
            return output
        output = self.read(slot, unit.tokens, unit.learn)
        tail.extend(new)
        return output

    def launch(self, readings: Sequence[Reading]) -> list[Output | Exception]:
        """One after the other: a unit of one row shares nothing with that of another but a step. Exact
        previews read the last token of a block in the step too.
        """
        if self._exact is None:
            return launch_singly(self, readings)
        lasts = {place for place, reading in enumerate(readings) if _is_last_token(reading)}
        steps = [
            replace(reading, unit=replace(reading.unit, kind="step")) if place in lasts else reading
            for place, reading in enumerate(readings)
        ]
        outputs = launch_singly(self, steps)
        for place in lasts:
            output, slot = outputs[place], readings[place].slot
            if isinstance(output, Output):
                try:
                    outputs[place] = self._arrive(slot, output.logits, self._exact.state(slot))
                except Exception as error:
                    outputs[place] = error
        return outputs

    def run_every(self, slot: int, unit: Unit) -> Output:
        """As :meth:`run`; the logits come from a forward of their own, before the state moves."""
        every = self._every(slot, unit)
        return replace(self.run(slot, unit), every=every)

    def teaching_tokens(self, unit: Unit) -> int:
        """All of them, but for those of turns that do not learn."""
        return unit.learned

    def backlog(self, _slot: int) -> None:
        """Nothing is ever left for later."""

    def work(self, _slots: Sequence[int]) -> None:
        """Never has anything to do."""

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """The slot's rows become the initial state."""
        self._boundary.clear(slot)
        self._live.clear(slot)
        self._tails[slot].clear()

    @torch.inference_mode()
    def load(self, slot: int, row: State) -> None:
        """The slot's rows become ``row`` (``[1, ...]``), a state at a boundary."""
        self._boundary.write(slot, row)
        self._live.write(slot, row)
        self._tails[slot].clear()

    @torch.inference_mode()
    def freeze(self, slot: int) -> None:
        """The slot's rows, both at a boundary, learn no more."""
        row = self._boundary.view(slot)
        row["frozen"].fill_(int(Frozen.JOURNAL))
        self._live.write(slot, row)

    @torch.inference_mode()
    def block(self, slot: int, tokens: Sequence[int], learn: Sequence[bool] = ()) -> Output:
        """From the slot's boundary to the next, over the whole block ``[1, block]``; replaces the preview."""
        before = self._boundary.view(slot)
        logits, state = self._model.block_pass(self._tokens([tokens]), before, self._mask(learn, 1, -1))
        return self._arrive(slot, logits[0], state)

    @torch.inference_mode()
    def _read_exactly(self, previews: ExactPreviews, slot: int, unit: Unit) -> Output:
        """The unit's tokens alone: those of the open block before them have been read for good."""
        logits, counts = previews.read(slot, unit.tokens, unit.learn)
        if unit.kind == "block":
            return self._arrive(slot, logits, previews.state(slot))
        ((finite, best),) = look([logits])
        return Output(logits, finite, counts, best=best)

    def _arrive(self, slot: int, logits: Tensor, state: State) -> Output:
        """``state`` is the next boundary's; the preview goes on from it as one that is restored does."""
        norms = self._change(self._boundary.view(slot), state)
        ((finite, best),) = look([logits])
        finite = finite and all(map(math.isfinite, norms.values()))
        counts = counts_of(state)[0]
        worth = counts.frozen is Frozen.JOURNAL or counts.good == counts.position
        output = Output(logits, finite, counts, counts.position if worth else None, norms, best=best)
        self._boundary.write(slot, state)
        self._live.write(slot, state)
        return output

    @torch.inference_mode()
    def read(self, slot: int, tokens: Sequence[int], learn: Sequence[bool] = ()) -> Output:
        """One forward over ``tokens`` (``[1, n]``) inside the block."""
        row = self._live.state(slot)
        logits, state = self._model.prefill(self._tokens([tokens]), row, self._mask(learn, 1, -1))
        self._live.write(slot, state)
        ((finite, best),) = look([logits[0]])
        return Output(logits[0], finite, counts_of(state)[0], best=best)

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], tokens: Sequence[int], learn: Sequence[bool] = ()) -> list[Output]:
        """One token for each of ``slots`` (any number, distinct); outputs in that order."""
        order = sorted(range(len(slots)), key=slots.__getitem__)
        flags = learn or (True,) * len(slots)
        logits, counts = self._live.step(
            [slots[i] for i in order], [tokens[i] for i in order], learn_flags(flags[i] for i in order)
        )
        rows = logits.unbind()
        found = [
            Output(own, finite, count, best=best)
            for own, (finite, best), count in zip(rows, look(rows), counts, strict=True)
        ]
        outputs = dict(zip(order, found, strict=True))
        if self._exact is None:
            for slot, token, flag in zip(slots, tokens, flags, strict=True):
                self._tails[slot].append((token, flag))
        return [outputs[index] for index in range(len(slots))]

    @torch.inference_mode()
    def boundary(self, slot: int) -> State:
        """A host copy of the slot's boundary row, ``[1, ...]``."""
        return host_copy(self._boundary.view(slot))

    @torch.inference_mode()
    def live(self, slot: int) -> State:
        """A host copy of the slot's live row, ``[1, ...]``."""
        return host_copy(self._live.state(slot))

    @torch.inference_mode()
    def park(self, slot: int) -> Parked:
        """Always possible: boundary row, preview and tail."""
        boundary, preview = self.boundary(slot), self._live.park(slot)
        size = sum(tensor.nbytes for tensor in (*boundary.values(), *preview.tensors))
        return Parked(size, (boundary, preview, tuple(self._tails[slot])))

    @torch.inference_mode()
    def unpark(self, slot: int, parked: Parked) -> None:
        """The slot's rows and tail become the parked ones."""
        boundary, preview, tail = parked.content
        self._boundary.write(slot, boundary)
        self._live.unpark(slot, preview)
        self._tails[slot][:] = tail

    @torch.inference_mode()
    def counts(self, slot: int) -> Counts:
        return self._live.counts(slot)

    @torch.inference_mode()
    def drift(self, slot: int) -> dict[str, float]:
        """Drift ratio of the live row, per learning level."""
        return self._live.drift(slot)

    @torch.inference_mode()
    def _every(self, slot: int, unit: Unit) -> Tensor:
        """Logits after each token, computed beside the state: what moves it keeps its one shape."""
        tokens, mask = self._tokens([unit.tokens]), self._mask(unit.learn, 1, -1)
        return self._model.forward(tokens, self._live.state(slot), mask)[0][0]

    def _change(self, before: State, after: State) -> dict[str, float]:
        squares: dict[str, float] = {}
        for tensor in self.spec.tensors:
            if tensor.level != COUNTERS and tensor.dtype.is_floating_point:
                change = float((after[tensor.name] - before[tensor.name]).square().sum())
                squares[tensor.level] = squares.get(tensor.level, 0.0) + change
        return {level: math.sqrt(total) for level, total in squares.items()}

    def _tokens(self, tokens: Sequence[Sequence[int]] | Sequence[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self._device)

    def _mask(self, learn: Sequence[bool], *shape: int) -> Tensor | None:
        """What the model is told of tokens that may teach; None where all may."""
        return torch.tensor(learn, device=self._device).view(shape) if learn else None


def _is_last_token(reading: Reading) -> bool:
    """Whether its unit is the one token that an open block lacks."""
    return reading.unit.kind == "block" and len(reading.unit.tokens) == 1 and not reading.every
