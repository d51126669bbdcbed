"""φ rule ``ttt``: a layer whose hidden state is a model trained on what it reads (E41)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hope_model.rules.gradient import Gates, GradientRule
from hope_model.rules.gradient_memory import MemoryForm
from hope_model.rules.options import Option


class TttRule(GradientRule):
    """``W_t = W_{t-1} - η_t ∇ ½ |LN(f(k_t; W_s)) - (v_t - k_t)|²``, ``o_t = q_t + LN(f(q_t; W_t))`` with
    ``s`` the start of the chunk, ``f`` a matrix or a two-layer MLP, both with biases. Nothing is forgotten.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "memory": Option("linear", "the model that is trained", ("linear", "mlp")),
        "expand": Option(4, "hidden width of the MLP, in head widths"),
    }

    def form(self) -> MemoryForm:
        head = self.config.head_width
        hidden = int(self.options["expand"]) * head if self.options["memory"] == "mlp" else 0
        return MemoryForm(head, head, hidden=hidden, layer_norm=True, bias=True)

    def gates(self, x: Tensor) -> Gates:
        rate = self.rate(x)
        return Gates(rate, torch.zeros_like(rate))

    def target(self, k: Tensor, v: Tensor) -> Tensor:
        return v - k

    def reading(self, q: Tensor, read: Tensor) -> Tensor:
        return q + read
