"""Write rule ``adam`` (E17)."""

import torch
from torch import Tensor

from hope_kernels.associative_memory import Rule
from hope_model.state import State, TensorSpec
from hope_model.write_rules.base import WriteRule, moment


class Adam(WriteRule):
    """First and second moments with bias correction; ``count`` is the row's own number of writes."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    @property
    def kernel(self) -> Rule:
        return Rule("adam", self.beta1, self.beta2, self.epsilon)

    def spec(self, level: str, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
        return (
            moment("first", level, shape),
            moment("second", level, shape),
            moment("count", level, (), torch.int64),
        )

    def update(self, gradient: Tensor, moments: State, rate: Tensor | float) -> tuple[Tensor, State]:
        count = moments["count"] + 1
        first = self.beta1 * moments["first"] + (1 - self.beta1) * gradient
        second = self.beta2 * moments["second"] + (1 - self.beta2) * gradient.square()
        power = count.view(-1, *(1,) * (gradient.dim() - 1)).to(gradient.dtype)
        unbiased = second / (1 - power.new_full((), self.beta2) ** power)
        # The square root's gradient at zero is infinite; entries that never moved pass through a constant.
        root = torch.where(unbiased > 0, unbiased, torch.ones_like(unbiased)).sqrt() * (unbiased > 0)
        step = first / (1 - power.new_full((), self.beta1) ** power) / (root + self.epsilon)
        return rate * step, {"first": first, "second": second, "count": count}
