"""The selective state space over many tokens, with a backward of its own (E38).

A token needs one multiply-add of the whole state; all else is computed for some tokens at once. The backward
keeps the states at the start of every part and computes those inside it again.
"""

from typing import Any

import torch
from torch import Tensor

PART = 16
"""Tokens whose states are held at once."""


def selective_scan(
    hidden: Tensor, *, x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """``T`` tokens; equals ``T`` calls of ``selective_step``.

    Args:
        hidden: ``[B, I, N]``.
        x, delta: ``[B, T, I]``. a: ``[I, N]``. b, c: ``[B, T, N]``.

    Returns:
        ``(y [B, T, I], hidden')``.
    """
    y, after = _Scan.apply(hidden, x, delta, a, b, c)  # type: ignore[no-untyped-call]
    return y, after


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        starts, reads = [], []
        for at in range(0, x.shape[1], PART):
            part = slice(at, at + PART)
            starts.append(hidden)
            states = _states(
                hidden, torch.exp(_decay(delta[:, part], a)), x[:, part] * delta[:, part], b[:, part]
            )
            reads.append(torch.matmul(states, c[:, part].transpose(0, 1)[..., None])[..., 0])
            hidden = states[-1]
        ctx.save_for_backward(torch.stack(starts), x, delta, a, b, c)
        return torch.cat(reads).transpose(0, 1).contiguous(), hidden.clone()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_hidden: Tensor) -> tuple[Tensor, ...]:
        starts, x, delta, a, b, c = ctx.saved_tensors
        grad_x, grad_delta = torch.empty_like(x), torch.empty_like(delta)
        grad_a, grad_b, grad_c = torch.zeros_like(a), torch.empty_like(b), torch.empty_like(c)
        for index in reversed(range(len(starts))):
            part = slice(index * PART, (index + 1) * PART)
            step, own = delta[:, part], b[:, part].transpose(0, 1)[..., None]
            factor, scaled = torch.exp(_decay(step, a)), x[:, part] * step
            states = _states(starts[index], factor, scaled, b[:, part])
            grad_read = grad_y[:, part].transpose(0, 1)[..., None]  # [P, B, I, 1]
            grads = grad_read * c[:, part].transpose(0, 1)[:, :, None]  # of each state, [P, B, I, N]
            grads[-1] += grad_hidden
            for t in reversed(range(len(grads) - 1)):
                grads[t].addcmul_(factor[t + 1], grads[t + 1])
            grad_c[:, part] = torch.matmul(states.mT, grad_read)[..., 0].transpose(0, 1)
            grad_b[:, part] = torch.matmul(grads.mT, scaled.transpose(0, 1)[..., None])[..., 0].transpose(
                0, 1
            )
            grad_scaled = torch.matmul(grads, own)[..., 0].transpose(0, 1)
            grad_hidden = factor[0] * grads[0]
            grads[0].mul_(starts[index])
            grads[1:].mul_(states[:-1])
            through = grads.mul_(factor)  # of δ A
            grad_delta[:, part] = (through * a).sum(-1).transpose(0, 1) + grad_scaled * x[:, part]
            grad_a += (through * step.transpose(0, 1)[..., None]).sum((0, 1))
            grad_x[:, part] = grad_scaled * step
        return grad_hidden, grad_x, grad_delta, grad_a, grad_b, grad_c


def _decay(delta: Tensor, a: Tensor) -> Tensor:
    """``δ A`` of a part, ``[P, B, I, N]``."""
    return delta.transpose(0, 1)[..., None] * a


def _states(hidden: Tensor, factor: Tensor, scaled: Tensor, b: Tensor) -> Tensor:
    """States after each token of a part, ``[P, B, I, N]``."""
    states = scaled.transpose(0, 1)[..., None] * b.transpose(0, 1)[:, :, None]
    for t in range(len(states)):
        states[t].addcmul_(factor[t], hidden)
        hidden = states[t]
    return states
