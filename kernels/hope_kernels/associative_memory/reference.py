"""Plain torch form of a level's matrix memory (E12-E17 of ``model/EQUATIONS.md``)."""

from typing import NamedTuple

import torch
from torch import Tensor

from hope_kernels.norms import bounded
from hope_kernels.slab_rows.reference import gather_rows, scatter_rows


class Rule(NamedTuple):
    """A write rule: ``sgd``, ``momentum`` (``beta1``) or ``adam``."""

    name: str
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


def associative_step(
    delta: Tensor,
    gradient: Tensor,
    last_key: Tensor,
    slots: Tensor,
    learns: Tensor,
    base: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor,
) -> Tensor:
    """One token: read the memory at its key, and add what it teaches to the gradient, in place.

    Args:
        delta, gradient: slabs ``[S, M, M]``; the memory is ``base [M, M] + delta``.
        last_key: slab ``[S, M]``, key of the token before; :func:`associative_write` replaces it.
        slots: ``[B]`` int64, distinct; -1 for a padded row.
        learns: ``[B]`` bool; the gradient of a row where it is false stays.
        key, value: ``[B, M]``. rate: ``[B]``.

    Returns:
        ``[B, M]`` what the memory holds at ``key``; zeros for a padded row.
    """
    memory, before = base + gather_rows(delta, slots), gather_rows(last_key, slots)
    recalled = torch.matmul(memory, torch.stack((key, before), dim=-1))
    error = rate[:, None] * (recalled[..., 1] - value)
    gathered = gather_rows(gradient, slots) + error[:, :, None] * before[:, None, :]
    scatter_rows(gradient, torch.where(learns, slots, -1), gathered)
    return torch.where((slots >= 0)[:, None], recalled[..., 0], 0)


def associative_write(
    delta: Tensor,
    gradient: Tensor,
    last_key: Tensor,
    slots: Tensor,
    due: Tensor,
    key: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    count: Tensor | None,
    step_length: Tensor,
    retention: Tensor,
    *,
    rule: Rule,
    max_step: float,
    max_norm: float,
) -> Tensor:
    """End a token in place: rows that are due write their memory, and every row keeps its key.

    A write that is not finite leaves memory and moments as they were; the gradient starts again at zero.

    Args:
        delta, gradient, last_key: slabs as in :func:`associative_step`.
        due: ``[B]`` bool, whether the token ends the row's period.
        key: ``[B, M]`` of the token.
        first, second: slabs ``[S, M, M]``, the rule's moments. count: slab ``[S]`` int64, its writes.
        step_length, retention: ``[1]``, before their sigmoids.
        rule: with its constants. max_step, max_norm: bounds of the step and of what the row holds.

    Returns:
        ``[B]`` bool: rows that were due and written.
    """
    present = slots >= 0
    direction = gather_rows(gradient, slots)
    direction = direction * torch.rsqrt(direction.square().sum((-2, -1), keepdim=True) + 1e-8)
    moments = [None if slab is None else gather_rows(slab, slots) for slab in (first, second, count)]
    step, after = _step(direction, rule, *moments)
    update = bounded(max_step * torch.sigmoid(step_length) * step, max_step)
    held = gather_rows(delta, slots)
    moved = bounded(torch.sigmoid(retention) * held - update, max_norm)
    parts = [x for x in (moved, *after) if x is not None]
    fine = torch.stack([x.isfinite().reshape(len(x), -1).all(1) for x in parts]).all(0) & due & present
    written = torch.where(fine, slots, -1)
    scatter_rows(delta, written, moved)
    for slab, new in zip((first, second, count), after, strict=True):
        if slab is not None and new is not None:
            scatter_rows(slab, written, new)
    scatter_rows(gradient, torch.where(due & present, slots, -1), torch.zeros_like(direction))
    scatter_rows(last_key, slots, key)
    return fine


def _step(
    direction: Tensor, rule: Rule, first: Tensor | None, second: Tensor | None, count: Tensor | None
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """The update at rate 1, and the moments after it."""
    if rule.name == "sgd":
        return direction, (None, None, None)
    assert first is not None
    first = rule.beta1 * first + (1 - rule.beta1) * direction
    if rule.name == "momentum":
        return first, (first, None, None)
    assert second is not None
    assert count is not None
    second, count = rule.beta2 * second + (1 - rule.beta2) * direction.square(), count + 1
    writes = count[:, None, None].to(direction.dtype)
    unbiased = second / (1 - writes.new_full((), rule.beta2) ** writes)
    step = first / (1 - writes.new_full((), rule.beta1) ** writes)
    return step / (unbiased.sqrt() + rule.epsilon), (first, second, count)
