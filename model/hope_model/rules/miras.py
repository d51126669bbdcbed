"""φ rule ``miras``: the three memories of Miras, Memora, Moneta and Yaad (E44)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.rules.gradient import Gates, GradientRule
from hope_model.rules.gradient_memory import MemoryForm
from hope_model.rules.heads import HeadRate
from hope_model.rules.objectives import Objective, cubed, huber, squared
from hope_model.rules.options import Option, chosen_options


@dataclass(frozen=True)
class Variant:
    """Objective, and how matrices follow from what was written."""

    objective: Objective
    weights: str


VARIANTS = {
    "memora": Variant(squared, "softmax"),
    "moneta": Variant(cubed, "power"),
    "yaad": Variant(huber, "plain"),
}


class MirasRule(GradientRule):
    """``M(x) = x + LN(W₁ gelu(W₂ x))``, ``A_t = α_t A_{t-1} - η_t ∇ℓ(W_s; k_t, v_t)``, gradients at the
    chunk's start ``s``, and

    - ``memora``: ``W = softmax(A)`` by row, ``ℓ`` squared: retention by the KL divergence;
    - ``moneta``: ``W = A / |A|₄²``, ``ℓ`` the cube of the error;
    - ``yaad``: ``W = A``, ``ℓ`` Huber's.

    What is not linear in ``A`` is computed at a chunk's start. Memora's tokens read the memory of that
    moment.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "variant": Option("memora", "objective and retention", tuple(VARIANTS)),
        "expand": Option(1, "hidden width of the MLP, in head widths"),
    }

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self._objective = self.variant(config).objective
        self.retention = HeadRate(config, bias=5.0)

    @classmethod
    def variant(cls, config: HopeConfig) -> Variant:
        return VARIANTS[str(chosen_options(config.rule, cls.OPTIONS, config.rule_options)["variant"])]

    @classmethod
    def frozen_reads(cls, config: HopeConfig) -> bool:
        return cls.variant(config).weights == "softmax"

    def form(self) -> MemoryForm:
        head, hidden = self.config.head_width, int(self.options["expand"]) * self.config.head_width
        weights = self.variant(self.config).weights
        return MemoryForm(head, head, hidden=hidden, residual=True, layer_norm=True, weights=weights)

    def objective(self, reading: Tensor, target: Tensor) -> Tensor:
        return self._objective(reading, target)

    def gates(self, x: Tensor) -> Gates:
        return Gates(self.rate(x), self.retention.log(x))
