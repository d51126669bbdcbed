"""Models of equal size: the slow MLP's width makes up for what their rules need."""

from dataclasses import replace

import torch

from hope_model.config import HopeConfig
from hope_model.errors import ConfigError
from hope_model.hope import Hope

TOLERANCE = 0.03


def count_parameters(config: HopeConfig) -> int:
    """Trained values of the model, computed from shapes alone."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Hope(config).parameters())


def matched_to(config: HopeConfig, parameters: int) -> HopeConfig:
    """``config`` with the ``mlp_width`` that brings its count nearest to ``parameters``.

    Prefers widths that are multiples of 8. Raises ConfigError when none comes within 3%.
    """
    smallest = count_parameters(replace(config, mlp_width=1))
    per_unit = 3 * config.width * config.layers
    mlp_width = fitting_width(parameters, smallest=smallest, per_unit=per_unit, tolerance=TOLERANCE)
    if mlp_width is None:
        raise ConfigError(
            f"parameters: expected {config.name!r} with rule {config.rule!r} to fit {parameters}, "
            f"found {smallest} without a slow MLP"
        )
    return replace(config, mlp_width=mlp_width)


def fitting_width(parameters: int, *, smallest: int, per_unit: int, tolerance: float) -> int | None:
    """The width, 1 at least, that brings a model nearest to ``parameters``; a multiple of 8 if one will do.

    ``smallest`` is the count at width 1, ``per_unit`` what each further one adds; None if no width comes
    within the share ``tolerance``.
    """
    exact = 1 + (parameters - smallest) / per_unit
    for width in (8 * round(exact / 8), round(exact)):
        if width >= 1 and abs(smallest + (width - 1) * per_unit - parameters) <= tolerance * parameters:
            return width
    return None
