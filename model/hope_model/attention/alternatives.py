"""Against what a taught token is weighed: the likeliest others one by one, and all the rest as one (E27)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.cpu.survey import Surveyed, rest, survey

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention


LEAST_SHARE = 1e-9
"""Chance that the rest is taken to have at least; ``survey.h`` knows it too."""


@dataclass(frozen=True)
class Alternatives:
    """Against what tokens are weighed: a shortlist, and all others as one.

    rows: head rows of the shortlist, ``[c, D]``. place: the targets' in it, ``[T]``. reference: the outputs
    at which the rest was taken, ``[T, D]``. others: the logit of the rest there, ``[T]``. direction: its
    gradient, the mean of the rest's head rows by their chances, ``[T, D]``: with a fixed rest it would look
    as if raising every listed logit at once were for free.
    """

    rows: Tensor
    place: Tensor
    reference: Tensor
    others: Tensor
    direction: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: "HopeAttention", x: Tensor, logits: Tensor, targets: Tensor, size: int
    ) -> "Alternatives":
        """From ``x [T, D]`` after the last norm, its ``logits [T, vocab]`` (fp32) and ``targets [T]``."""
        best = logits.topk(min(size, logits.shape[-1]), dim=-1).indices
        ids = torch.cat((targets, best.flatten())).unique()
        everything = logits.logsumexp(-1, keepdim=True)
        chances = (logits - everything).exp().index_fill_(-1, ids, 0.0)
        share = chances.sum(-1, keepdim=True).clamp_min(LEAST_SHARE)
        mean = (chances / share).to(x.dtype) @ model.backbone.head_rows
        others = (everything + share.log())[:, 0]
        return cls(
            model.backbone.head_rows[ids], torch.searchsorted(ids, targets), x.float(), others, mean.float()
        )

    def margins(self, x: Tensor) -> Tensor:
        """``x [T, D]`` after the last norm -> ``[T]``."""
        logits = torch.matmul(x, self.rows.mT).float()
        place = self.place[:, None]
        rest = logits.scatter(-1, place, -torch.inf).logsumexp(-1)
        return logits.gather(-1, place)[:, 0] - torch.logaddexp(rest, self._others_at(x))

    def _others_at(self, x: Tensor) -> Tensor:
        return self.others + ((x.float() - self.reference) * self.direction).sum(-1)


class Outlook:
    """What the model says at the places of some taught tokens, of one session or of several.

    Args:
        x: there, after the last norm, ``[T, D]``.
        targets: the taught tokens, ``[T]``.
    """

    def __init__(self, model: "HopeAttention", x: Tensor, targets: Tensor) -> None:
        self._model, self._x, self._targets = model, x, targets
        self._logits = model.backbone.plain_logits(x)
        self._size = min(model.config.memory.shortlist, self._logits.shape[-1])
        self._surveyed: Surveyed | None = None
        if model.passes is not None:
            self._surveyed = survey(self._logits, targets, self._size)

    def losses(self) -> Tensor:
        """Nats of the targets, ``[T]``."""
        if self._surveyed is not None:
            return self._surveyed.losses
        return F.cross_entropy(self._logits, self._targets, reduction="none")

    def alternatives(self, places: Sequence[Tensor]) -> list[Alternatives]:
        """Those of some of the tokens; tokens of one group share a shortlist. No group is empty."""
        surveyed = self._surveyed
        if surveyed is None or not places:
            return [
                Alternatives.of(self._model, self._x[own], self._logits[own], self._targets[own], self._size)
                for own in places
            ]
        rows = self._model.backbone.head_rows
        targets = [self._targets[own] for own in places]
        ids = [
            torch.cat((taught, surveyed.best[own].flatten())).unique()
            for taught, own in zip(targets, places, strict=True)
        ]
        shares, means = rest(self._logits, places, surveyed.totals, ids, rows)
        logs, counts = shares.clamp_min(LEAST_SHARE).log(), [len(own) for own in places]
        return [
            Alternatives(
                rows[listed],
                torch.searchsorted(listed, taught),
                self._x[own].float(),
                surveyed.totals[own] + log,
                mean,
            )
            for own, taught, listed, log, mean in zip(
                places, targets, ids, logs.split(counts), means.split(counts), strict=True
            )
        ]
