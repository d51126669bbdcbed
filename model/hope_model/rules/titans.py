"""φ rule ``titans``: a neural memory that learns from surprise, with momentum and forgetting (E42)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.rules.gradient import Gates, GradientRule
from hope_model.rules.gradient_memory import MemoryForm
from hope_model.rules.heads import HeadRate
from hope_model.rules.options import Option


class TitansRule(GradientRule):
    """``S_t = β_t S_{t-1} - θ_t ∇ ½ |M(k_t) - v_t|²``, ``M_t = α_t M_{t-1} + S_t``, ``o_t = M_t(q_t)``;
    ``M`` a residual two-layer MLP (or a matrix), gradients at the chunk's start, all gates chosen by the
    token.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "memory": Option("mlp", "the network", ("mlp", "linear")),
        "expand": Option(1, "hidden width of the MLP, in head widths"),
        "momentum": Option(True, "surprise of the past goes on"),
        "forgetting": Option(True, "what was learned decays"),
    }

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.retention = HeadRate(config, bias=5.0) if self.options["forgetting"] else None
        self.surprise = HeadRate(config) if self.options["momentum"] else None

    def form(self) -> MemoryForm:
        head = self.config.head_width
        hidden = int(self.options["expand"]) * head if self.options["memory"] == "mlp" else 0
        return MemoryForm(head, head, hidden=hidden, residual=True)

    def with_momentum(self) -> bool:
        return bool(self.options["momentum"])

    def gates(self, x: Tensor) -> Gates:
        rate = self.rate(x)
        kept = torch.zeros_like(rate) if self.retention is None else self.retention.log(x)
        return Gates(rate, kept, None if self.surprise is None else self.surprise.log(x))
