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


@dataclass(frozen=True)
class News:
    """Some taught tokens, before it is known against what they are weighed.

    x: at their places, after the last norm, ``[n, D]``. targets: the tokens, ``[n]``. seen: what the kernel
    saw of all logits there; None where there is no kernel.
    """

    x: Tensor
    targets: Tensor
    seen: Surveyed | None

    def only(self, places: Tensor) -> "News":
        return News(
            self.x[places], self.targets[places], None if self.seen is None else self.seen.only(places)
        )


def look_at(model: "HopeAttention", x: Tensor, targets: Tensor) -> tuple[Tensor, News]:
    """Nats of taught tokens ``targets [T]``, and all of them as news; ``x [T, D]`` is after the last norm."""
    logits = model.backbone.plain_logits(x)
    if model.passes is None:
        return F.cross_entropy(logits, targets, reduction="none"), News(x, targets, None)
    seen = survey(logits, targets, _listed(model))
    return seen.losses, News(x, targets, seen)


def alternatives_of(model: "HopeAttention", asked: Sequence[News]) -> list[Alternatives]:
    """Tokens of one group share a shortlist. No group is empty.

    Logits are computed anew: between two slices of a write they would be megabytes of every session.
    """
    counts = [len(own.x) for own in asked]
    logits = model.backbone.plain_logits(torch.cat([own.x for own in asked]))
    seen = [own.seen for own in asked if own.seen is not None]
    if len(seen) < len(asked):
        return [
            Alternatives.of(model, own.x, said, own.targets, _listed(model))
            for own, said in zip(asked, logits.split(counts), strict=True)
        ]
    rows = model.backbone.head_rows
    ids = [
        torch.cat((own.targets, look.best.flatten())).unique() for own, look in zip(asked, seen, strict=True)
    ]
    totals = torch.cat([look.totals for look in seen])
    shares, means = rest(logits, torch.arange(len(logits)).split(counts), totals, ids, rows)
    others = totals + shares.clamp_min(LEAST_SHARE).log()
    return [
        Alternatives(rows[listed], torch.searchsorted(listed, own.targets), own.x.float(), other, mean)
        for own, listed, other, mean in zip(
            asked, ids, others.split(counts), means.split(counts), strict=True
        )
    ]


def _listed(model: "HopeAttention") -> int:
    return min(model.config.memory.shortlist, model.config.backbone.vocab_size)
