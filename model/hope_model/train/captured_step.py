"""A training step as one CUDA graph: a window of Hope is some 27,000 launches, each shorter than Python needs
to ask for it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hope_model.state import State
from hope_model.train.data import Batch

WARM_STEPS = 3
"""Steps that are launched one by one before the capture: what the first use of a kernel or of a moment makes
is no part of a step.
"""
Step = Callable[[Batch, State], tuple[Tensor, Tensor, State]]
"""``trainer.optimizer_step`` of a run: a window of every lane -> (loss, norm of the gradient, state)."""

log = logging.getLogger(__name__)


class CapturedStep:
    """Runs ``step``, from the fourth time on as a replay of what it launched; sizes may not change.

    ``step`` waits for nothing on the device. What is returned holds until the next call, the state too, which
    may be handed back as it is. A step that cannot be captured is launched one by one, with a warning.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._step, self._device = step, device
        self._stream = torch.cuda.Stream(device)
        self._left = WARM_STEPS
        self._replayed: _Replayed | None = None
        for group in optimizer.param_groups:
            group["capturable"] = True
            # As a number it would be the same in each replay.
            group["lr"] = torch.tensor(group["lr"], device=device)

    def __call__(self, batch: Batch, state: State) -> tuple[Tensor, Tensor, State]:
        if self._left == 0:
            self._left = -1
            try:
                self._replayed = _Replayed(self._step, self._on_device(batch), state, self._stream)
            except RuntimeError as error:
                log.warning("training steps are launched one by one, a CUDA graph failed: %s", error)
        if self._replayed is not None:
            return self._replayed(batch, state)
        self._left = max(-1, self._left - 1)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):  # the capture's, since gradients stay with their stream
            made = self._step(self._on_device(batch), state)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return made

    def _on_device(self, batch: Batch) -> Batch:
        return replace(batch, tokens=batch.tokens.to(self._device), resets=batch.resets.to(self._device))


class _Replayed:
    """The graph with the memory that it reads and writes."""

    def __init__(self, step: Step, batch: Batch, state: State, stream: torch.cuda.Stream) -> None:
        self._batch = batch
        self._state = {name: tensor.clone() for name, tensor in state.items()}
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._loss, self._norm, after = step(self._batch, self._state)
            for name, tensor in self._state.items():
                tensor.copy_(after[name])

    def __call__(self, batch: Batch, state: State) -> tuple[Tensor, Tensor, State]:
        self._batch.tokens.copy_(batch.tokens)
        self._batch.resets.copy_(batch.resets)
        for name, tensor in self._state.items():
            if state[name] is not tensor:
                tensor.copy_(state[name])
        self._graph.replay()
        return self._loss, self._norm, self._state
