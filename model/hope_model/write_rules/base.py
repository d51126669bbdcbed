"""What a write rule is: a gradient in, an update out, its own memory carried in the session's state."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from hope_kernels.associative_memory import Rule
from hope_model.state import State, TensorSpec


class WriteRule(ABC):
    """A pure function of gradient and moments; per-row step sizes come from the level."""

    @property
    @abstractmethod
    def kernel(self) -> Rule | None:
        """The rule as a kernel knows it, moments in the order of :meth:`spec`; None if none knows it."""

    @abstractmethod
    def spec(self, level: str, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
        """The moments of a memory of ``shape``; all start at zero."""

    @abstractmethod
    def update(self, gradient: Tensor, moments: State, rate: Tensor | float) -> tuple[Tensor, State]:
        """``gradient [B, ...]`` -> ``(u, moments')``; the caller writes ``memory - u``."""


def moment(name: str, level: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> TensorSpec:
    return TensorSpec(name, level, shape, dtype)
