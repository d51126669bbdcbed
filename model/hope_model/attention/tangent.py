"""What taught tokens would gain from a change of the memory, to first order (E27).

A token's margin is the logit of its own chance, ``log p - log (1 - p)``. Keys and values stay as they are, so
a token's margin depends on its own column only: its gradient at a site is an outer product, and one backward
pass gives those of all tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_model.attention.memory import Deltas, Geometry, Site
from hope_model.attention.model import HopeAttention


@dataclass(frozen=True)
class Lesson:
    """What is taught to one session: ``T`` tokens.

    hidden: inputs of the first adapted layer where each taught token is predicted, ``[1, T, D]``. outputs:
    of the last layer there, as the session read it, ``[1, T, D]``. positions: of these, ``[1, T]``.
    targets: the taught tokens, ``[1, T]``. bias: ``[1, T, S]``. keys: of each adapted layer, keys and values
    in sight, ``[1, G, S, K]``. text: plain text, no chat.
    """

    hidden: Tensor
    outputs: Tensor
    positions: Tensor
    targets: Tensor
    bias: Tensor
    keys: Sequence[tuple[Tensor, Tensor]]
    text: bool

    def only(self, tokens: Tensor | slice) -> "Lesson":
        """The lesson of some of its tokens."""
        return Lesson(
            self.hidden[:, tokens],
            self.outputs[:, tokens],
            self.positions[:, tokens],
            self.targets[:, tokens],
            self.bias[:, tokens],
            self.keys,
            self.text,
        )


@dataclass(frozen=True)
class Tangent:
    """Margins of ``n`` tokens; their gradients at a site are ``inputs [n, r]`` times ``slopes [n, out]``."""

    margins: Tensor
    inputs: Mapping[str, Tensor]
    slopes: Mapping[str, Tensor]

    @classmethod
    def join(cls, parts: Sequence["Tangent"]) -> "Tangent":
        """Those of all parts' tokens."""
        return cls(
            torch.cat([part.margins for part in parts]),
            {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs},
            {name: torch.cat([part.slopes[name] for part in parts]) for name in parts[0].slopes},
        )

    def along(self, change: Deltas) -> Tensor:
        """How much each margin rises with ``change [r, out]`` by site, ``[n]``."""
        return _total(((self.inputs[name] @ change[name]) * self.slopes[name]).sum(1) for name in self.inputs)


class Pushes:
    """Changes of the memory that raise margins at the least cost, ``M^-1 J`` (E27).

    The cost of a change of a level is its squared length in the damped Fisher metric times the level's
    retention, in nats.
    """

    def __init__(self, tangent: Tangent, sites: Sequence[Site], geometry: Mapping[str, Geometry]) -> None:
        self._tangent = tangent
        self._inputs = {
            site.name: tangent.inputs[site.name] @ geometry[site.name].inputs_inverse / site.level.retention
            for site in sites
        }
        self._slopes = {
            site.name: tangent.slopes[site.name] @ geometry[site.name].outputs_inverse for site in sites
        }

    def gram(self) -> Tensor:
        """``J M^-1 J'``: what one token's push does to another's margin, ``[n, n]``."""
        inputs, slopes = self._tangent.inputs, self._tangent.slopes
        return _total(
            (own @ inputs[name].mT) * (self._slopes[name] @ slopes[name].mT)
            for name, own in self._inputs.items()
        )

    def change(self, pull: Tensor) -> dict[str, Tensor]:
        """All pushes together, ``pull [n]`` of each: ``[r, out]`` by site."""
        return {name: own.mT @ (pull[:, None] * self._slopes[name]) for name, own in self._inputs.items()}


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
        cls, model: HopeAttention, x: Tensor, logits: Tensor, targets: Tensor, size: int
    ) -> "Alternatives":
        """From ``x [T, D]`` after the last norm, its ``logits [T, vocab]`` (fp32) and ``targets [T]``."""
        best = logits.topk(min(size, logits.shape[-1]), dim=-1).indices
        ids = torch.cat((targets, best.flatten())).unique()
        everything = logits.logsumexp(-1, keepdim=True)
        chances = (logits - everything).exp().index_fill_(-1, ids, 0.0)
        share = chances.sum(-1, keepdim=True).clamp_min(1e-9)
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
        others = self.others + ((x.float() - self.reference) * self.direction).sum(-1)
        return logits.gather(-1, place)[:, 0] - torch.logaddexp(rest, others)


def tangent_of(
    model: HopeAttention, lesson: Lesson, alternatives: Alternatives, deltas: Deltas, sites: Iterable[Site]
) -> Tangent:
    """The margins of a lesson's tokens and their gradients.

    Args:
        deltas: the memory there, ``[1, r, out]`` by site, in the weights' type.
        sites: those to differentiate.
    """
    sites = tuple(sites)
    inputs: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}
    with torch.enable_grad():
        x = model.adapted(
            lesson.hidden,
            lesson.positions,
            lesson.bias,
            lesson.keys,
            deltas,
            adapters=lambda layer: _probing(model, layer, deltas, sites, inputs, probes),
        )
        margins = alternatives.margins(model.backbone.final(x)[0])
        gradients = torch.autograd.grad(margins.sum(), [probes[site.name] for site in sites])
    slopes = {site.name: gradient[0].float() for site, gradient in zip(sites, gradients, strict=True)}
    return Tangent(margins.detach(), {name: value[0].float() for name, value in inputs.items()}, slopes)


def _probing(
    model: HopeAttention,
    layer: int,
    deltas: Deltas,
    sites: Sequence[Site],
    inputs: dict[str, Tensor],
    probes: dict[str, Tensor],
) -> Callable[[str, Tensor], Tensor | None]:
    """Reads the memory, notes what enters the sites, and adds zeros whose gradient can be asked for."""
    here = {site.projection: site for site in sites if site.layer == layer}

    def adapt(projection: str, x: Tensor) -> Tensor | None:
        read = model.memory.read(layer, projection, x, deltas)
        site = here.get(projection)
        if site is None:
            return read
        inputs[site.name] = model.memory.geometry[site.name].subspace(x.detach())
        probe = torch.zeros(*x.shape[:2], site.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
        probes[site.name] = probe
        return probe if read is None else read + probe

    return adapt


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)
