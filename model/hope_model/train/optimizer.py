"""AdamW and its schedule."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hope_model.train.settings import TrainSettings

MEMORY_SCALARS = (
    "step_length",
    "retention",
    "rate_bias",
    "retention_bias",
    "projection_rate",
    "projection_retention",
)
MEMORY_RATE_SCALE = 5.0
"""Scalars of the update rules act through saturating functions: at the matrices' rate they hardly move."""


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW; matrices decay, gains, biases and scalars do not.

    Every group has a ``rate_scale``: what the trainer multiplies the scheduled rate with.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    scalars: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in MEMORY_SCALARS:
            scalars.append(parameter)
        else:
            (decayed if parameter.dim() >= 2 else kept).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay, "rate_scale": 1.0},
        {"params": kept, "weight_decay": 0.0, "rate_scale": 1.0},
        {"params": scalars, "weight_decay": 0.0, "rate_scale": MEMORY_RATE_SCALE},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The next step's rate, scaled by each group's ``rate_scale``; one kept on a GPU stays there."""
    for group in optimizer.param_groups:
        own = rate * group["rate_scale"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to ``final_rate`` of the peak."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * cosine)
