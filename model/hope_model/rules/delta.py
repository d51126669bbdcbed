"""φ rule ``delta``: the linear self-modifying memory of Hope (E6-E10)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_kernels import delta_chunk, delta_chunk_write, delta_step
from hope_kernels.memory_step import memory_step
from hope_kernels.slab_rows import gather_rows, scatter_rows
from hope_model.config import HopeConfig
from hope_model.convolution import CausalConvolution
from hope_model.guards import (
    bound_norm,
    full_precision,
    keep_finite_heads,
    keep_learning,
    keep_rows,
    l2_normalize,
)
from hope_model.rules.base import MemoryRule
from hope_model.schedule import run_lengths
from hope_model.state import LevelSpec, State, TensorSpec

MAX_RATE = 0.5
MAX_NORM = 8.0


class DeltaRule(MemoryRule):
    """Matrix memories per head. ``memory`` is written by every token; the memories that make keys, values,
    rates and retention (``projections``) are read as they stood at the start of their chunk and change at its
    end.

    Both are held as a difference to a meta-learned initial memory, so that retention decays toward it.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        width, heads, head = config.width, config.heads, config.head_width
        self.inputs = nn.Linear(width, width, bias=False)
        self.convolution = CausalConvolution(width, config.conv_width)
        self.query = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.output_gain = nn.Parameter(torch.ones(width))
        self.memory_initial = nn.Parameter(torch.zeros(heads, head, head))
        self.projections_initial = nn.Parameter(torch.zeros(heads, 2 * head + 2, head))
        self.rate_bias = nn.Parameter(torch.zeros(heads))
        self.retention_bias = nn.Parameter(torch.linspace(3.0, 7.0, heads))
        self.projection_rate = nn.Parameter(torch.full((heads,), -3.0))
        self.projection_retention = nn.Parameter(torch.full((heads,), 6.0))
        nn.init.normal_(self.memory_initial, std=0.5 / math.sqrt(head))
        nn.init.normal_(self.projections_initial[:, : 2 * head], std=1.0 / math.sqrt(head))

    @classmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        return (LevelSpec("phi", 1), LevelSpec("projections", config.chunk))

    @property
    def phase_period(self) -> int:
        return self.config.chunk

    def spec(self) -> tuple[TensorSpec, ...]:
        heads, head = self.config.heads, self.config.head_width
        projections = (heads, 2 * head + 2, head)
        return (
            TensorSpec("memory", "phi", (heads, head, head)),
            TensorSpec("window", "phi", (self.config.conv_width - 1, self.config.width)),
            TensorSpec("projections", "projections", projections),
            TensorSpec("projections_next", "projections", projections),
        )

    def reference_norms(self) -> dict[str, Tensor]:
        memory = self.memory_initial + self._identity()[: self.config.head_width]
        projections = self.projections_initial + self._identity()
        return {"phi": memory.norm(), "projections": projections.norm()}

    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        return {"phi": ("memory",), "projections": ("projections",)}

    def step(
        self, x: Tensor, state: State, position: Tensor, learns: Tensor | None = None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        inner, window = self.convolution.step(self.inputs(x), state["window"])
        q, gate = l2_normalize(self._heads(self.query(inner))), self.gate(x)
        parts = self._project(self._heads(inner), state["projections"])
        k, alpha, retention = parts["k"], parts["log_alpha"].exp(), self._projection_retention()
        read, memory = delta_step(
            state["memory"], self.memory_initial, a=parts["a"], w=parts["w"], k=k, alpha=alpha, q=q
        )
        _, pending = delta_step(
            state["projections_next"],
            self.projections_initial,
            a=parts["a_projections"],
            w=parts["w_projections"],
            k=k,
            alpha=retention.expand_as(alpha),
            q=q,
        )
        due = (position + 1) % self.config.chunk == 0
        memory, pending = self._bounded(memory, due), self._bounded(pending, due)
        memory, wrote = keep_finite_heads(memory, state["memory"])
        pending, projected = keep_finite_heads(pending, state["projections_next"])
        anchor = torch.where(due[:, None, None, None], pending, state["projections"])
        state = {
            "memory": keep_learning(learns, memory, state["memory"]),
            "window": window,
            "projections": keep_learning(learns, anchor, state["projections"]),
            "projections_next": keep_learning(learns, pending, state["projections_next"]),
        }
        applied = {"phi": wrote.long(), "projections": (projected & due).long()}
        return self._emit(read + q, gate), state, applied

    def step_rows(
        self, x: Tensor, slab: State, slots: Tensor, position: Tensor, learns: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        inner, window = self.convolution.step(self.inputs(x), gather_rows(slab["window"], slots))
        scatter_rows(slab["window"], slots, window)
        due = (position + 1) % self.config.chunk == 0
        read, wrote, projected = memory_step(
            slab["memory"],
            slab["projections"],
            slab["projections_next"],
            slots,
            due,
            torch.ones_like(due) if learns is None else learns,
            self._heads(inner),
            l2_normalize(self._heads(self.query(inner))),
            self.memory_initial,
            self.projections_initial,
            self.rate_bias,
            self.retention_bias,
            self.projection_rate,
            self.projection_retention,
            max_rate=MAX_RATE,
            max_norm=MAX_NORM,
        )
        applied = {"phi": wrote.all(1).long(), "projections": (projected.all(1) & due).long()}
        return self._emit(read, self.gate(x)), applied

    def forward(
        self, x: Tensor, state: State, phase: int, learns: Tensor | None = None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        sizes = run_lengths(phase, x.shape[1], self.config.chunk)
        inner, window = self.convolution(self.inputs(x), state["window"])
        inputs = self._heads(inner.to(state["memory"].dtype))
        q, gate = l2_normalize(self._heads(self.query(inner).to(inputs.dtype))), self.gate(x)
        memory, anchor, pending = state["memory"], state["projections"], state["projections_next"]
        wrote, projected = [], [x.new_zeros(len(x), 0, dtype=torch.bool)]
        reads, read_tokens = [], 0
        for part, q_part in zip(inputs.split(sizes, dim=2), q.split(sizes, dim=2), strict=True):
            with full_precision(x):
                read, new_memory, new_pending = self._chunk(part, q_part, memory, anchor, pending, learns)
            read_tokens += part.shape[2]
            due = (phase + read_tokens) % self.config.chunk == 0
            if due:
                new_memory, new_pending = _bound(new_memory), _bound(new_pending)
            new_memory, kept = keep_finite_heads(new_memory, memory)
            new_pending, kept_projections = keep_finite_heads(new_pending, pending)
            memory = keep_learning(learns, new_memory, memory)
            pending = keep_learning(learns, new_pending, pending)
            wrote.append(kept[:, None].expand(-1, part.shape[2]))
            if due:
                anchor = keep_learning(learns, pending, anchor)
                projected.append(kept_projections[:, None])
            reads.append(read)
        if anchor is pending:
            anchor = pending.clone()  # no two state tensors may share storage
        state = {"memory": memory, "window": window, "projections": anchor, "projections_next": pending}
        y = self._emit((torch.cat(reads, dim=2) + q).transpose(1, 2).flatten(2), gate)
        return y, state, {"phi": torch.cat(wrote, dim=1), "projections": torch.cat(projected, dim=1)}

    held_step, held_step_rows, held_forward = step, step_rows, forward

    def _chunk(
        self,
        inputs: Tensor,
        q: Tensor,
        memory: Tensor,
        anchor: Tensor,
        pending: Tensor,
        learns: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = self._project(inputs, anchor)
        if learns is not None:  # no token of a chunk reads what one before it would have written
            unwritten = {name: torch.zeros_like(parts[name]) for name in ("a", "w", "log_alpha")}
            parts |= {name: keep_rows(learns, parts[name], none) for name, none in unwritten.items()}
        read, memory = delta_chunk(
            memory,
            self.memory_initial,
            a=parts["a"],
            w=parts["w"],
            k=parts["k"],
            log_alpha=parts["log_alpha"],
            q=q,
        )
        retention = self._projection_retention().log()[None, :, None].expand(1, -1, inputs.shape[2])
        pending = delta_chunk_write(
            pending,
            self.projections_initial,
            a=parts["a_projections"],
            w=parts["w_projections"],
            k=parts["k"],
            log_alpha=retention,
        )
        return read, memory, pending

    def _project(self, inputs: Tensor, anchor: Tensor) -> dict[str, Tensor]:
        """Keys, values, rates and retention from the memories at the chunk's start (E6), and the terms of E9.

        ``inputs`` is ``[B, H, K]`` or ``[B, H, T, K]``; so are the results, rates without the last axis.
        """
        head = self.config.head_width
        single = inputs.dim() == 3
        tokens = inputs[:, :, None] if single else inputs
        maps = (self.projections_initial + self._identity() + anchor).mT  # [B, H, K, 2K + 2]
        read = torch.matmul(tokens, maps)
        k, v = l2_normalize(read[..., : 2 * head].unflatten(-1, (2, head))).unbind(-2)
        rate, retention = read[..., 2 * head :].split(1, dim=-1)
        rate = MAX_RATE * torch.sigmoid(rate + self.rate_bias[:, None, None])
        log_alpha = F.logsigmoid(retention.squeeze(-1) + self.retention_bias[:, None])
        slow_rate = rate * torch.sigmoid(self.projection_rate)[:, None, None]
        change = k - v
        parts = {
            "k": k,
            "log_alpha": log_alpha,
            "a": rate * (v - 2 * k),
            "w": rate * -change,
            "a_projections": -slow_rate * k,
            "w_projections": -slow_rate * torch.matmul(change, maps),
        }
        return {name: part.squeeze(2) for name, part in parts.items()} if single else parts

    def _identity(self) -> Tensor:
        """``[2K + 2, K]``: the residual of the memories of keys and values; those of the rates have none."""
        eye = torch.eye(self.config.head_width, dtype=self.rate_bias.dtype, device=self.rate_bias.device)
        return torch.cat((eye, eye, eye.new_zeros(2, len(eye))))

    def _projection_retention(self) -> Tensor:
        return torch.sigmoid(self.projection_retention)

    def _bounded(self, delta: Tensor, due: Tensor) -> Tensor:
        return torch.where(due[:, None, None, None], _bound(delta), delta)

    def _heads(self, x: Tensor) -> Tensor:
        """``[B, D] -> [B, H, K]`` or ``[B, T, D] -> [B, H, T, K]``."""
        split: Tensor = x.unflatten(-1, (self.config.heads, self.config.head_width))
        return split if x.dim() == 2 else split.transpose(1, 2).contiguous()

    def _emit(self, read: Tensor, gate: Tensor) -> Tensor:
        heads = read.flatten(-2) if read.dim() == 3 and gate.dim() == 2 else read
        split = heads.unflatten(-1, (self.config.heads, self.config.head_width))
        normed = split * torch.rsqrt(split.square().mean(-1, keepdim=True) + 1e-6)
        result: Tensor = self.output(normed.flatten(-2) * self.output_gain * F.silu(gate.to(read.dtype)))
        return result


def _bound(delta: Tensor) -> Tensor:
    return bound_norm(delta, MAX_NORM, axes=(-2, -1))
