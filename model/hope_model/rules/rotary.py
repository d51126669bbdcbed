"""Rotary positions of a session's own count of tokens (E32)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hope_model.config import HopeConfig
from hope_model.errors import ConfigError
from hope_model.state import TensorSpec

BASE = 10000.0


class Rotary(nn.Module):
    """Turns the pairs ``(x_i, x_{i + K/2})`` of a head by ``position · 10000^(-2i/K)``.

    The position is state, ``seen``: rows stand anywhere. Angles are computed in fp64, since a session may
    have read millions of tokens.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__()
        if config.head_width % 2:
            raise ConfigError(
                f"heads: rule {config.rule!r} expected an even head width for rotary positions, "
                f"found {config.head_width}"
            )
        self.head_width = config.head_width

    def spec(self, level: str) -> TensorSpec:
        """The count of tokens read."""
        return TensorSpec("seen", level, (), torch.int64)

    def forward(
        self, seen: Tensor, tokens: int, kind: torch.dtype
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """``seen [B]`` -> a function that turns ``[B, H, tokens, K]``, and the count after them."""
        exponents = torch.arange(0, self.head_width, 2, dtype=torch.float64, device=seen.device)
        positions = seen[:, None] + torch.arange(tokens, device=seen.device)
        angles = positions[..., None].double() * BASE ** -(exponents / self.head_width)
        cosines, sines = angles.cos().to(kind)[:, None], angles.sin().to(kind)[:, None]  # [B, 1, T, K / 2]

        def turn(x: Tensor) -> Tensor:
            a, b = x.chunk(2, dim=-1)
            return torch.cat((a * cosines - b * sines, a * sines + b * cosines), dim=-1)

        return turn, seen + tokens
