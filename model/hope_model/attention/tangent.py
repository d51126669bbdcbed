"""What taught tokens would gain from a change of the memory, to first order (E27).

A token's margin is the logit of its own chance, ``log p - log (1 - p)``. Keys and values stay as they are, so
a token's margin depends on its own column only: its gradient at a site is an outer product, and one backward
pass gives those of all tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

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


@dataclass(frozen=True)
class Question:
    """What one session asks: the margins of a lesson's tokens and their gradients.

    deltas: the memory there, ``[1, r, out]`` by site, in the weights' type. sites: those to differentiate.
    """

    lesson: Lesson
    alternatives: Alternatives
    deltas: Deltas
    sites: tuple[Site, ...]


def tangents_of(model: HopeAttention, questions: Sequence[Question]) -> list[Tangent]:
    """The answers to questions about the same sites, from one forward and one backward pass.

    Shorter lessons are filled up with tokens that are not read again. On a CPU with bf16 an answer's bits do
    not depend on the other questions.
    """
    sites = questions[0].sites
    read = _side_by_side([question.lesson for question in questions])
    deltas = {
        name: torch.cat([question.deltas[name] for question in questions]) for name in questions[0].deltas
    }
    inputs: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}
    with torch.enable_grad():
        x = model.adapted(
            *read, deltas, adapters=lambda layer: _probing(model, layer, deltas, sites, inputs, probes)
        )
        rows = model.backbone.final(x)
        margins = [
            question.alternatives.margins(row[: question.lesson.targets.shape[1]])
            for question, row in zip(questions, rows, strict=True)
        ]
        gradients = torch.autograd.grad(
            _total(each.sum() for each in margins), [probes[site.name] for site in sites]
        )
    slopes = {site.name: gradient for site, gradient in zip(sites, gradients, strict=True)}

    def answer(row: int, own: Tensor) -> Tangent:
        count = len(own)
        return Tangent(
            own.detach(),
            {name: value[row, :count].float() for name, value in inputs.items()},
            {name: value[row, :count].float() for name, value in slopes.items()},
        )

    return [answer(row, own) for row, own in enumerate(margins)]


def _side_by_side(
    lessons: Sequence[Lesson],
) -> tuple[Tensor, Tensor, Tensor, Sequence[tuple[Tensor, Tensor]]]:
    """Inputs, positions, bias and keys of lessons as rows; tokens and keys are filled up at the end."""
    if len(lessons) == 1:
        return lessons[0].hidden, lessons[0].positions, lessons[0].bias, lessons[0].keys
    tokens = max(lesson.targets.shape[1] for lesson in lessons)
    span = max(lesson.bias.shape[2] for lesson in lessons)

    def along(dim: int, size: int, parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([_filled(part, dim, size, 0.0) for part in parts])

    biases = [_filled(lesson.bias, 2, span, -torch.inf) for lesson in lessons]
    layers = zip(*(lesson.keys for lesson in lessons), strict=True)
    return (
        along(1, tokens, [lesson.hidden for lesson in lessons]),
        along(1, tokens, [lesson.positions for lesson in lessons]),
        along(1, tokens, biases),  # a row that saw nothing at all would be NaN
        [(along(2, span, [k for k, _ in layer]), along(2, span, [v for _, v in layer])) for layer in layers],
    )


def _filled(x: Tensor, dim: int, size: int, value: float) -> Tensor:
    """``x`` with ``value`` after its end along ``dim``, up to ``size``."""
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, size - x.shape[dim]), value=value)


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
