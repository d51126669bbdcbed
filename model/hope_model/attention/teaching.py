"""How a lesson teaches: words of a chat until they are known, plain text by one small step (E27)."""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from hope_model.attention.config import MemoryConfig, MemoryLevel
from hope_model.attention.margins import solve_margins
from hope_model.attention.tangent import Lesson, Pushes, Tangent

NEWS_NATS = (2.0, 6.0)
"""A word is learned from the first of these losses on, and with full weight from the second."""
FACT_NATS, FACT_TOKENS, FACT_POWER = (4.0, 8.0), 8, 3
"""So many tokens that nobody could foresee make a lesson worth its full weight."""
LEAST_WEIGHT = 0.02
"""Tokens that weigh less in their lesson are left out."""


class Teaching(Protocol):
    """What the kinds of lessons do each in their own way; ``n`` tokens are news."""

    def rounds(self, level: MemoryLevel) -> int:
        """Of a lesson that is worth them all."""
        ...

    def news(self, losses: Tensor) -> Tensor:
        """Which tokens are worth learning, by their nats ``[T]``: indices ``[n]``."""
        ...

    def worth(self, losses: Tensor) -> float:
        """Of the whole lesson, 0 to 1, by the nats of all its tokens."""
        ...

    def weights(self, losses: Tensor, worth: float) -> Tensor:
        """How much each token of news counts, by their nats: ``[n]``."""
        ...

    def wanted(
        self, pushes: Pushes, tangent: Tangent, moved: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, Tensor]:
        """Where this round would take the memory from where the write began, ``[r, out]`` by site.

        Args:
            moved: how far it has gone.
        """
        ...

    def factor(self, level: MemoryLevel, length: Tensor) -> Tensor:
        """The share of the way there that is gone, when it is ``length`` in the Fisher norm."""
        ...

    def limit(self, level: MemoryLevel) -> float:
        """Fisher norm that the level may come to."""
        ...

    def max_divergence(self, memory: MemoryConfig) -> float:
        """Nats per token by which the canaries' answers may have moved; what is beyond is drawn back."""
        ...


class Words:
    """Of a chat: what was news is learned until its margin says that it is known."""

    def rounds(self, level: MemoryLevel) -> int:
        return level.rounds

    def news(self, losses: Tensor) -> Tensor:
        return (_share(losses, NEWS_NATS) > LEAST_WEIGHT).nonzero()[:, 0]

    def worth(self, losses: Tensor) -> float:
        return float((_share(losses, FACT_NATS).sum() / FACT_TOKENS).clamp_max(1.0))

    def weights(self, losses: Tensor, worth: float) -> Tensor:
        return _share(losses, NEWS_NATS) * worth**FACT_POWER

    def wanted(
        self, pushes: Pushes, tangent: Tangent, moved: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, Tensor]:
        unmoved = tangent.margins - tangent.along(moved)
        return pushes.change(solve_margins(pushes.gram(), unmoved, weights, compiled=pushes.compiled))

    def factor(self, level: MemoryLevel, length: Tensor) -> Tensor:
        return (level.round_length / length).clamp_max(1.0)

    def limit(self, level: MemoryLevel) -> float:
        return level.max_norm

    def max_divergence(self, memory: MemoryConfig) -> float:
        return memory.max_divergence


class PlainText:
    """No chat: every token counts, and one step of a fixed length goes down the loss of them all."""

    def rounds(self, level: MemoryLevel) -> int:
        return 1

    def news(self, losses: Tensor) -> Tensor:
        return torch.arange(len(losses), device=losses.device)

    def worth(self, losses: Tensor) -> float:
        return 1.0

    def weights(self, losses: Tensor, worth: float) -> Tensor:
        return torch.ones_like(losses)

    def wanted(
        self, pushes: Pushes, tangent: Tangent, moved: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, Tensor]:
        return pushes.change(weights * torch.sigmoid(-tangent.margins))

    def factor(self, level: MemoryLevel, length: Tensor) -> Tensor:
        return level.text_step_length / length

    def limit(self, level: MemoryLevel) -> float:
        return level.text_max_norm

    def max_divergence(self, memory: MemoryConfig) -> float:
        return math.inf


def teaching_of(lesson: Lesson) -> Teaching:
    """The way of a lesson's kind."""
    return PlainText() if lesson.text else Words()


def _share(losses: Tensor, bounds: tuple[float, float]) -> Tensor:
    """0 up to the first bound, 1 from the second on."""
    low, high = bounds
    return ((losses - low) / (high - low)).clamp(0.0, 1.0)
