"""Launches recorded once and started again as one, without Python: what a CUDA graph is."""

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hope_kernels.dispatch import declare, give_up

OPERATION = "decode_graph"
"""As the metric of fall-backs has it."""
declare(OPERATION)

log = logging.getLogger(__name__)


class Graph(Protocol):
    """outputs: of the launches, the same tensors after every :meth:`replay`. bytes: of device memory."""

    @property
    def outputs(self) -> tuple[Tensor, ...]: ...
    @property
    def bytes(self) -> int: ...
    def replay(self) -> None:
        """Start the launches again, on what the same tensors now hold."""
        ...


class Graphs(Protocol):
    """Where graphs are made."""

    def capture(self, launch: Callable[[], tuple[Tensor, ...]]) -> Graph:
        """Record what ``launch`` starts; whether it also runs is not said, so it must have no effect now.

        Raises RuntimeError where it asks the device for a value, or starts what cannot be recorded.
        """
        ...


class CudaGraph:
    """See :class:`Graph`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: tuple[Tensor, ...], taken: int) -> None:
        self.outputs, self.bytes = outputs, taken
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()


class CudaGraphs:
    """Graphs of one device; they share their memory, as no two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, launch: Callable[[], tuple[Tensor, ...]]) -> CudaGraph:
        """See :class:`Graphs`."""
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.memory_reserved(self._device)
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool):
            outputs = launch()
        return CudaGraph(graph, outputs, torch.cuda.memory_reserved(self._device) - before)


def without_graphs(error: RuntimeError) -> None:
    """A capture did not succeed: said loudly, once, and counted; launches go on one by one."""
    give_up(OPERATION, error, "decode steps cannot be captured as a CUDA graph, they are launched one by one")
