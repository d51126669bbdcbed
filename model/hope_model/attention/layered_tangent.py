"""Tangents by the model's own layers and autograd: the reference, and what a GPU runs."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_model.attention.memory import Deltas, Site
from hope_model.attention.tangent import Lesson, Question, Tangent

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention


def layered_tangents(model: "HopeAttention", questions: Sequence[Question]) -> list[Tangent]:
    """By the model's own layers.

    Shorter lessons are filled up with tokens that are not read again.
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
            torch.stack([each.sum() for each in margins]).sum(), [probes[site.name] for site in sites]
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
    model: "HopeAttention",
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
