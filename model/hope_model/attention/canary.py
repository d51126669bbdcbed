"""Texts that tell how far answers have moved from theta's own (E28): a few, fixed, with cached targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.torch_threads import one_thread
from hope_model.attention.memory import Deltas

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention

POSITIONS, PANEL_POSITIONS = 32, 8
"""Judged tokens of a text: where it is asked alone, and where all are asked at once."""
SHORTLIST = 32
"""Next tokens whose chances are compared at each position; the others count as one."""


@dataclass(frozen=True)
class Canary:
    """``C`` texts, as theta reads them; ``n`` judged positions in each.

    hidden: inputs of the first adapted layer, ``[C, n, D]``. positions: ``[C, n]``. bias: ``[C, n, S]``.
    keys: of each adapted layer, ``[C, G, S, K]``. rows: head rows of all shortlists, ``[c, D]``.
    chosen: those of each position, ``[C, n, SHORTLIST]``. chances: theta's, the last one for all others,
    ``[C, n, SHORTLIST + 1]``. others: the logit that stands for these, ``[C, n, 1]``.
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
    def of(
        cls, model: "HopeAttention", tokens: Sequence[int], start: int, judged: int = POSITIONS
    ) -> "Canary":
        """Read ``tokens`` with the bare model; ``judged`` positions are spread from ``start`` to the end."""
        cache, length = model.new_cache(1), len(tokens)
        device = model.backbone.device
        run = torch.tensor([list(tokens)], device=device)
        parts = [model.read(cache, [0], part, None) for part in run.split(64, dim=1)]
        count = min(judged, length - start)
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

    @classmethod
    def panel(cls, model: "HopeAttention", texts: Sequence[tuple[Sequence[int], int]]) -> "Canary":
        """All of ``texts`` (tokens, first position to judge; at least one) in one, at a few positions each.

        A text that is shorter than that is judged at its last position again.
        """
        parts = [cls.of(model, tokens, start, PANEL_POSITIONS)._filled_up() for tokens, start in texts]
        span = max(part.bias.shape[2] for part in parts)
        first = [sum(len(before.rows) for before in parts[:at]) for at in range(len(parts))]

        def wide(x: Tensor) -> Tensor:
            return F.pad(x, (0, 0, 0, span - x.shape[2]))

        layers = zip(*(part.keys for part in parts), strict=True)
        return cls(
            hidden=torch.cat([part.hidden for part in parts]),
            positions=torch.cat([part.positions for part in parts]),
            bias=torch.cat(
                [F.pad(part.bias, (0, span - part.bias.shape[2]), value=-torch.inf) for part in parts]
            ),
            keys=[
                (torch.cat([wide(k) for k, _ in layer]), torch.cat([wide(v) for _, v in layer]))
                for layer in layers
            ],
            rows=torch.cat([part.rows for part in parts]),
            chosen=torch.cat([part.chosen + start for part, start in zip(parts, first, strict=True)]),
            chances=torch.cat([part.chances for part in parts]),
            others=torch.cat([part.others for part in parts]),
        )

    def _filled_up(self) -> "Canary":
        """With :data:`PANEL_POSITIONS` judged positions, the last one again and again."""
        places = torch.arange(PANEL_POSITIONS, device=self.hidden.device)
        places = places.clamp_max(self.hidden.shape[1] - 1)
        chosen = {
            name: getattr(self, name)[:, places]
            for name in ("hidden", "positions", "bias", "chosen", "chances", "others")
        }
        return replace(self, **chosen)

    def divergence(self, model: "HopeAttention", deltas: Deltas) -> Tensor:
        """Mean over texts and positions of ``KL(theta || adapted)`` in nats, ``[B]``; of each memory as if it
        were alone.

        The logit of everything off the list is held as theta has it.
        """
        return torch.stack([own.mean() for own in self.nats(model, deltas)])

    def nats(self, model: "HopeAttention", deltas: Deltas) -> list[Tensor]:
        """That of each text and position, ``[C, n]``, for each memory."""
        outputs = model.adapted_by_each(self.hidden, self.positions, self.bias, self.keys, deltas)
        return [self._nats(model, x) for x in outputs]

    @one_thread()
    def _nats(self, model: "HopeAttention", x: Tensor) -> Tensor:
        """From the last layer's outputs ``[C, n, D]``."""
        logits = torch.matmul(model.backbone.final(x), self.rows.mT).float()
        listed = logits.gather(-1, self.chosen)
        found = torch.cat((listed, self.others), dim=-1).log_softmax(-1)
        gap: Tensor = self.chances * (self.chances.clamp_min(1e-9).log() - found)
        return gap.sum(-1)


@torch.no_grad()
def panel_nats(model: "HopeAttention", part: int, proposals: Sequence[Deltas]) -> list[Tensor]:
    """What a part of the panel answers to each."""
    if not proposals:
        return []
    deltas = {name: torch.cat([own[name] for own in proposals]) for name in proposals[0]}
    return model.panel[part].nats(model, deltas)
