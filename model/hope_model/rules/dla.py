"""φ rule ``dla``: deep linear attention, a deep memory on the dot-product objective (E43)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.rules.gradient import Gates, GradientRule
from hope_model.rules.gradient_memory import MemoryForm
from hope_model.rules.heads import HeadRate
from hope_model.rules.objectives import dot
from hope_model.rules.options import Option


class DlaRule(GradientRule):
    """``M_t = α_t M_{t-1} + η_t ∇ <M(k_t), v_t>``, ``o_t = M_t(q_t)`` with ``M`` a two-layer MLP, gradients
    at the chunk's start. With one layer it is gated linear attention.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "expand": Option(1, "hidden width of the MLP, in head widths"),
    }

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.retention = HeadRate(config, bias=3.0)

    def form(self) -> MemoryForm:
        head = self.config.head_width
        return MemoryForm(head, head, hidden=int(self.options["expand"]) * head, residual=True)

    def objective(self, reading: Tensor, target: Tensor) -> Tensor:
        return dot(reading, target)

    def gates(self, x: Tensor) -> Gates:
        return Gates(self.rate(x), self.retention.log(x))
