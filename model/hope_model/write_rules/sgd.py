"""Write rule ``sgd`` (E15)."""

from torch import Tensor

from hope_kernels.associative_memory import Rule
from hope_model.state import State, TensorSpec
from hope_model.write_rules.base import WriteRule


class SGD(WriteRule):
    """``u = rate · g``; remembers nothing."""

    @property
    def kernel(self) -> Rule:
        return Rule("sgd")

    def spec(self, level: str, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
        return ()

    def update(self, gradient: Tensor, moments: State, rate: Tensor | float) -> tuple[Tensor, State]:
        return rate * gradient, {}
