"""One level of the Continuum Memory System with the ``associative`` objective (E12-E14)."""

import math

import torch
from torch import Tensor, nn

from hope_kernels.associative_memory import associative_step, associative_write
from hope_model.config import HopeConfig, LevelConfig
from hope_model.guards import bound_norm, finite_rows, full_precision, keep_rows, l2_normalize
from hope_model.norms import RMSNorm
from hope_model.schedule import run_lengths
from hope_model.state import State, TensorSpec, gather_state, scatter_state
from hope_model.write_rules import WRITE_RULES
from hope_model.write_rules.base import WriteRule

MAX_STEP = 4.0
MAX_NORM = 32.0
BASE_SCALE = 0.3
READOUT_SCALE = 4.0


class AssociativeLevel(nn.Module):
    """A matrix memory ``W = W_0 + ΔW`` that learns to foretell a token's value from the key before it.

    Between two writes ``W`` stands still, so the squared-error gradient of a period is a sum over its tokens
    and is gathered in ``gradient``. At the period's end the gradient, divided by its norm, goes through the
    write rule. ``ΔW`` is per session and starts at zero.
    """

    def __init__(self, config: HopeConfig, level: LevelConfig) -> None:
        super().__init__()
        self.level = level
        self.width = config.cms_width
        self.rule: WriteRule = WRITE_RULES[level.write_rule]()
        self.norm = RMSNorm(config.width)
        self.key = nn.Linear(config.width, self.width)
        self.value = nn.Linear(config.width, self.width, bias=False)
        self.output = nn.Linear(self.width, config.width, bias=False)
        self.base = nn.Parameter(torch.randn(self.width, self.width) * BASE_SCALE / math.sqrt(self.width))
        self.rate = nn.Linear(config.width, 1)
        self.step_length = nn.Parameter(torch.full((1,), -1.0))
        self.retention = nn.Parameter(torch.full((1,), 4.0))

    @torch.no_grad()
    def align(self) -> None:
        """Start with a readout that gives back what the value projection took in.

        From the first step on, what the memory foretells points at the next token's own features, so that
        writes pay before projection and readout have found each other.
        """
        self.output.weight.copy_(READOUT_SCALE * self.value.weight.T)

    def spec(self) -> tuple[TensorSpec, ...]:
        """The level's state tensors for one layer."""
        shape, name = (self.width, self.width), self.level.name
        own = (
            TensorSpec("delta", name, shape),
            TensorSpec("gradient", name, shape),
            TensorSpec("last_key", name, (self.width,)),
        )
        return own + self.rule.spec(name, shape)

    def step(
        self, x: Tensor, state: State, position: Tensor, learn: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """``x [B, D]``, ``position [B]`` tokens read before -> ``(reading [B, D], state', applied [B])``.

        ``learn [B]`` bool: rows that may learn from their token, None for all (E29). Others gather nothing
        and write nothing; what was gathered before waits.
        """
        keys, values, rates = self._terms(x[:, None])
        reading, gradient = self._read(keys, values, rates, state["delta"], state["last_key"])
        gathered = state["gradient"] + gradient
        due = (position + 1) % self.level.period == 0
        if learn is not None:
            gathered, due = keep_rows(learn, gathered, state["gradient"]), due & learn
        state = {**state, "gradient": gathered, "last_key": keys[:, -1]}
        if not bool(due.any()):
            return self.output(reading[:, 0]), state, torch.zeros_like(position)
        state, applied = self._write_rows(state, due)
        return self.output(reading[:, 0]), state, applied.long()

    def step_rows(
        self, x: Tensor, slab: State, slots: Tensor, position: Tensor, learn: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """:meth:`step` on rows ``slots [B]`` of a slab, in place; a padded row, -1, reads nothing of use."""
        rule = self.rule.kernel
        if rule is None:
            reading, after, applied = self.step(x, gather_state(slab, slots), position, learn)
            scatter_state(slab, slots, after)
            return reading, applied
        key, value, rate = (term[:, 0] for term in self._terms(x[:, None]))
        delta, gradient, last_key = slab["delta"], slab["gradient"], slab["last_key"]
        due = (position + 1) % self.level.period == 0
        learns = torch.ones_like(due) if learn is None else learn
        reading = associative_step(
            delta, gradient, last_key, slots, learns, self.base, key, value, rate[:, 0]
        )
        names = [spec.name for spec in self.rule.spec(self.level.name, ())]
        first, second, count = (*(slab[name] for name in names), None, None, None)[:3]
        applied = associative_write(
            delta,
            gradient,
            last_key,
            slots,
            due & learns,
            key,
            first,
            second,
            count,
            self.step_length,
            self.retention,
            rule=rule,
            max_step=MAX_STEP,
            max_norm=MAX_NORM,
        )
        return self.output(reading), applied.long()

    def forward(
        self, x: Tensor, state: State, phase: int, learn: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """``x [B, T, D]``, rows in lockstep at ``phase`` -> ``(reading [B, T, D], state', applied [B, n])``,
        of the ``n`` writes that were due.

        ``learn [B, T]`` bool as in :meth:`step`.
        """
        keys, values, rates = self._terms(x)
        if learn is not None:
            rates = torch.where(learn[..., None], rates, 0)
        applied = [x.new_zeros(len(x), 0, dtype=torch.bool)]
        readings, read_tokens = [], 0
        sizes = run_lengths(phase, x.shape[1], self.level.period)
        flags = [None] * len(sizes) if learn is None else learn.split(sizes, dim=1)
        parts = zip(
            keys.split(sizes, dim=1),
            values.split(sizes, dim=1),
            rates.split(sizes, dim=1),
            flags,
            strict=True,
        )
        with full_precision(x):
            for key, value, rate, may in parts:
                reading, gradient = self._read(key, value, rate, state["delta"], state["last_key"])
                gathered = state["gradient"] + gradient
                if may is not None:
                    gathered = keep_rows(may.any(1), gathered, state["gradient"])
                state = {**state, "gradient": gathered, "last_key": key[:, -1]}
                readings.append(reading)
                read_tokens += key.shape[1]
                if (phase + read_tokens) % self.level.period == 0:
                    state, wrote = self._write_rows(state, None if may is None else may[:, -1])
                    applied.append(wrote[:, None])
        return self.output(torch.cat(readings, dim=1)), state, torch.cat(applied, dim=1)

    def reference_norm(self) -> Tensor:
        """Norm of the memory a session starts from, the denominator of the drift ratio."""
        norm: Tensor = torch.linalg.vector_norm(self.base)
        return norm

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values ``[B, T, M]`` and per-token rates ``[B, T, 1]`` of ``x [B, T, D]``."""
        h = self.norm(x)
        kind = self.base.dtype
        keys = l2_normalize(torch.relu(self.key(h).to(kind)))
        return keys, l2_normalize(self.value(h).to(kind)), torch.sigmoid(self.rate(h).to(kind))

    def _read(
        self, keys: Tensor, values: Tensor, rates: Tensor, delta: Tensor, last_key: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Readings of a part of a period (E12) and its share of the gradient (E13)."""
        shifted = torch.cat((last_key[:, None], keys), dim=1)
        recalled = torch.matmul(shifted, (self.base + delta).transpose(-1, -2))
        errors = rates * (recalled[:, :-1] - values)
        return recalled[:, 1:], torch.matmul(errors.transpose(-1, -2), shifted[:, :-1])

    def _write_rows(self, state: State, rows: Tensor | None) -> tuple[State, Tensor]:
        """:meth:`_write` in the rows where ``rows [B]`` holds, None for all."""
        written, applied = self._write(state)
        if rows is None:
            return written, applied
        return {
            name: keep_rows(rows, tensor, state[name]) for name, tensor in written.items()
        }, applied & rows

    def _write(self, state: State) -> tuple[State, Tensor]:
        """End of a period (E14): normalised gradient, write rule, step bound, retention, norm bound.

        A write that is not finite leaves memory and moments as they were.
        """
        direction = bound_direction(state["gradient"])
        rate = MAX_STEP * torch.sigmoid(self.step_length)
        old = {spec.name: state[spec.name] for spec in self.rule.spec(self.level.name, ())}
        update, new = self.rule.update(direction, old, rate)
        update = bound_norm(update, MAX_STEP, axes=(-2, -1))
        moved = torch.sigmoid(self.retention) * state["delta"] - update
        old, new = (
            {**old, "delta": state["delta"]},
            {**new, "delta": bound_norm(moved, MAX_NORM, axes=(-2, -1))},
        )
        applied = torch.stack([finite_rows(tensor) for tensor in new.values()]).all(0)
        kept = {name: keep_rows(applied, tensor, old[name]) for name, tensor in new.items()}
        return {**state, **kept, "gradient": torch.zeros_like(state["gradient"])}, applied


def bound_direction(gradient: Tensor) -> Tensor:
    """``g / ||g||`` over the matrix; zero stays zero, with a finite derivative."""
    return gradient * torch.rsqrt(gradient.square().sum((-2, -1), keepdim=True) + 1e-8)
