"""A selective state-space layer (E38)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_kernels.selective_scan import selective_scan
from hope_model.config import HopeConfig
from hope_model.convolution import CausalConvolution
from hope_model.guards import bound_norm, full_precision, keep_finite
from hope_model.schedule import run_lengths
from hope_model.state import State, TensorSpec

MAX_NORM = 32768.0
"""Of a row's whole state; far above what decaying sums of bounded inputs reach."""


class SelectiveStateSpace(nn.Module):
    """``h_t = exp(δ_t A) ⊙ h_{t-1} + δ_t u_t B_tᵀ``, ``y_t = O((h_t C_t + d ⊙ u_t) ⊙ silu(Z x_t))``.

    ``u`` is the input after its convolution; ``δ = softplus(.)``, ``B`` and ``C`` are chosen by it.
    """

    def __init__(self, config: HopeConfig, *, inner: int, states: int) -> None:
        super().__init__()
        self.config, self.inner, self.states = config, inner, states
        self.rank = max(1, -(-config.width // 16))
        self.inputs = nn.Linear(config.width, 2 * inner, bias=False)
        self.convolution = CausalConvolution(inner, config.conv_width)
        self.choices = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.step_size = nn.Linear(self.rank, inner)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.output = nn.Linear(inner, config.width, bias=False)
        steps = torch.exp(torch.linspace(math.log(1e-3), math.log(1e-1), inner))
        with torch.no_grad():
            self.step_size.bias.copy_(torch.log(torch.expm1(steps)))

    def spec(self, level: str) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("hidden", level, (self.inner, self.states)),
            TensorSpec("window", level, (self.config.conv_width - 1, self.inner)),
        )

    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, Tensor]:
        """``x [B, T, D]``, rows in lockstep at ``phase`` -> ``(y [B, T, D], state', [B] tokens written)``."""
        kind, chunk = state["hidden"].dtype, self.config.chunk
        u, z = self.inputs(x).chunk(2, dim=-1)
        u, window = self.convolution(u, state["window"])
        u = u.to(kind)
        chosen = self.choices(u).to(kind)
        small, b, c = chosen.split((self.rank, self.states, self.states), dim=-1)
        delta = F.softplus(self.step_size(small).to(kind))
        hidden, a = state["hidden"], -self.log_a.exp()
        wrote, reads, read_tokens = torch.zeros(x.shape[0], dtype=torch.long, device=x.device), [], 0
        sizes = run_lengths(phase, x.shape[1], chunk)
        with full_precision(x):
            for part in zip(*(term.split(sizes, dim=1) for term in (u, delta, b, c)), strict=True):
                read, new = selective_scan(hidden, x=part[0], delta=part[1], a=a, b=part[2], c=part[3])
                read_tokens += read.shape[1]
                if (phase + read_tokens) % chunk == 0:
                    new = bound_norm(new, MAX_NORM, axes=(-2, -1))
                hidden, kept = keep_finite(new, hidden)
                wrote = wrote + kept.long() * read.shape[1]
                reads.append(read)
        mixed = (torch.cat(reads, dim=1) + self.skip * u) * F.silu(z.to(kind))
        y: Tensor = self.output(mixed)
        return y, {"hidden": hidden, "window": window}, wrote

    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, Tensor]:
        """One token a row, ``x [B, D]``, rows anywhere -> as :meth:`forward`, ``y [B, D]``."""
        chunk = self.config.chunk
        y, after, wrote = self(x[:, None], state, 0)
        due = ((position + 1) % chunk == 0)[:, None, None]
        bounded = bound_norm(after["hidden"], MAX_NORM, axes=(-2, -1))
        return y[:, 0], {**after, "hidden": torch.where(due, bounded, after["hidden"])}, wrote
