"""φ rule ``gated``: the gated fast state of the seed (E11)."""

import torch
from torch import Tensor, nn

from hope_model.config import HopeConfig
from hope_model.guards import bound_norm, keep_finite
from hope_model.rules.base import MemoryRule
from hope_model.state import LevelSpec, State, TensorSpec

MAX_NORM = 64.0


class GatedRule(MemoryRule):
    """``φ' = (1 - g) ⊙ φ + g ⊙ Δ`` with ``g = σ(W_g [φ; x])`` and ``Δ = W_Δ [φ; x]``; read before the write.

    ``φ`` is held as a difference to its meta-learned initial value. The recurrence is not linear in ``φ``,
    so a run of tokens is a loop.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        width = config.width
        self.initial = nn.Parameter(torch.randn(width) * 0.1)
        self.gate = nn.Linear(2 * width, width)
        self.candidate = nn.Linear(2 * width, width, bias=False)
        self.output = nn.Linear(2 * width, width, bias=False)
        nn.init.constant_(self.gate.bias, -2.0)

    @classmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        return (LevelSpec("phi", 1),)

    @property
    def phase_period(self) -> int:
        return 1

    def spec(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("fast", "phi", (self.config.width,)),)

    def reference_norms(self) -> dict[str, Tensor]:
        return {"phi": self.initial.norm()}

    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        return {"phi": ("fast",)}

    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        y, fast, applied = self._token(x, state["fast"])
        return y, {"fast": fast}, {"phi": applied}

    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, dict[str, Tensor]]:
        fast, outputs = state["fast"], []
        applied = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        for token in x.unbind(1):
            y, fast, wrote = self._token(token, fast)
            outputs.append(y)
            applied = applied + wrote
        return torch.stack(outputs, dim=1), {"fast": fast}, {"phi": applied}

    def _token(self, x: Tensor, fast: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi = self.initial + fast
        context = torch.cat((phi, x), dim=-1)
        gate = torch.sigmoid(self.gate(context))
        written = (1 - gate) * phi + gate * self.candidate(context)
        new, applied = keep_finite(bound_norm(written - self.initial, MAX_NORM, axes=(-1,)), fast)
        y: Tensor = self.output(context)
        return y, new, applied.long()
