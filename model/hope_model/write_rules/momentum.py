"""Write rule ``momentum`` (E16)."""

from torch import Tensor

from hope_kernels.associative_memory import Rule
from hope_model.state import State, TensorSpec
from hope_model.write_rules.base import WriteRule, moment


class Momentum(WriteRule):
    """``v' = β v + (1 - β) g``, ``u = rate · v'``: an exponential memory of gradients."""

    def __init__(self, beta: float = 0.9) -> None:
        self.beta = beta

    @property
    def kernel(self) -> Rule:
        return Rule("momentum", self.beta)

    def spec(self, level: str, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
        return (moment("velocity", level, shape),)

    def update(self, gradient: Tensor, moments: State, rate: Tensor | float) -> tuple[Tensor, State]:
        velocity = self.beta * moments["velocity"] + (1 - self.beta) * gradient
        return rate * velocity, {"velocity": velocity}
