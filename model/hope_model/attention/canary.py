"""Texts that tell how far answers have moved from theta's own (E28): a few, fixed, with cached targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hope_model.attention.memory import Deltas

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention

POSITIONS = 32
"""Judged tokens of a text."""
SHORTLIST = 32
"""Next tokens whose chances are compared at each position; the others count as one."""


@dataclass(frozen=True)
class Canary:
    """One text, as theta reads it; ``n`` judged positions.

    hidden: inputs of the first adapted layer, ``[1, n, D]``. positions: ``[1, n]``. bias: ``[1, n, S]``.
    keys: of each adapted layer, ``[1, G, S, K]``. rows: head rows of all shortlists, ``[c, D]``.
    chosen: those of each position, ``[1, n, SHORTLIST]``. chances: theta's, the last one for all others,
    ``[1, n, SHORTLIST + 1]``. others: the logit that stands for these, ``[1, n, 1]``.
    """

    hidden: Tensor
    positions: Tensor
    bias: Tensor
    keys: Sequence[tuple[Tensor, Tensor]]
    rows: Tensor
    chosen: Tensor
    chances: Tensor
    others: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: "HopeAttention", tokens: Sequence[int], start: int) -> "Canary":
        """Read ``tokens`` with the bare model; judged are positions spread from ``start`` to the end."""
        cache, length = model.new_cache(1), len(tokens)
        device = model.backbone.device
        run = torch.tensor([list(tokens)], device=device)
        parts = [model.read(cache, [0], part, None) for part in run.split(64, dim=1)]
        count = min(POSITIONS, length - start)
        places = torch.linspace(start, length - 1, count).long()
        span = cache.span([0], 0)
        bias = cache.bias([0], places[None], torch.tensor([length]), span)
        places = places.to(device)
        low = model.config.first_adapted
        logits = model.backbone.logits(torch.cat(parts, dim=1)[:, places])
        best = logits.topk(min(SHORTLIST, logits.shape[-1]), dim=-1).indices
        ids, chosen = best.unique(return_inverse=True)
        chances = logits.log_softmax(-1).gather(-1, best).exp()
        rest = (1 - chances.sum(-1, keepdim=True)).clamp_min(1e-6)
        listed = logits.gather(-1, best).logsumexp(-1, keepdim=True)
        return cls(
            hidden=cache.hidden[:1, places].clone(),
            positions=places[None],
            bias=bias,
            keys=[
                (keys[:1, :, :span].clone(), values[:1, :, :span].clone())
                for keys, values in zip(cache.keys[low:], cache.values[low:], strict=True)
            ],
            rows=model.backbone.head_rows[ids],
            chosen=chosen,
            chances=torch.cat((chances, rest), dim=-1),
            others=listed + rest.log() - (1 - rest).log(),
        )

    def divergence(self, model: "HopeAttention", deltas: Deltas) -> Tensor:
        """Mean over positions of ``KL(theta || adapted)`` in nats, ``[B]``.

        The logit of everything off the list is held as theta has it.
        """
        sessions = next(iter(deltas.values())).shape[0]

        def spread(x: Tensor) -> Tensor:
            return x.expand(sessions, *x.shape[1:])

        keys = [(spread(k), spread(v)) for k, v in self.keys]
        x = model.adapted(spread(self.hidden), spread(self.positions), self.bias, keys, deltas)
        logits = torch.matmul(model.backbone.final(x), self.rows.mT).float()
        listed = logits.gather(-1, spread(self.chosen))
        found = torch.cat((listed, spread(self.others)), dim=-1).log_softmax(-1)
        gap = self.chances * (self.chances.clamp_min(1e-9).log() - found)
        return gap.sum(-1).mean(-1)
