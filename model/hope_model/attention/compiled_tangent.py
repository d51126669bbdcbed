"""Passes through the adapted layers by the compiled kernel ``hope_kernels.cpu.tangent``, where there is one.

They are equal to the layers of ``backbone`` and autograd to rounding, not to the bit: activations and
gradients stay fp32 but for the operands of products.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hope_kernels.cpu.build import BuildError
from hope_kernels.cpu.frozen import FrozenWeights
from hope_kernels.cpu.reader import Reader
from hope_kernels.cpu.tangent import Column, Passes, Transposes
from hope_kernels.cpu.weigh import weigh
from hope_kernels.dispatch import declare, give_up
from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.torch_threads import one_thread
from hope_model.attention.alternatives import Alternatives
from hope_model.attention.compiled import products_of, site_names
from hope_model.attention.layered_tangent import layered_tangents
from hope_model.attention.lesson import TEXT, gather_lesson
from hope_model.attention.memory import Deltas
from hope_model.attention.tangent import Lesson, Question, Tangent

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention

OPERATION = "hope_tangent"
"""The kernel's name in logs and metrics."""
MAX_ERROR = 0.1
"""By which slopes and margins may differ from those of the model's own layers, of their norm; rounding makes
0.02.
"""
TINY = torch.finfo(torch.float32).tiny
TRIED, SEEN = 37, 64
"""Tokens and slots of a trial."""

_log = logging.getLogger(__name__)
declare(OPERATION)


def tangents_of(model: "HopeAttention", questions: Sequence[Question]) -> list[Tangent]:
    """The answers to questions about the same sites, from one forward and one backward pass.

    On a CPU with bf16 an answer's bits do not depend on the other questions.
    """
    if model.passes is None:
        return layered_tangents(model, questions)
    return compiled_tangents(model, model.passes, questions)


@torch.no_grad()
@one_thread()
def compiled_tangents(model: "HopeAttention", passes: Passes, questions: Sequence[Question]) -> list[Tangent]:
    """See :func:`tangents_of`."""
    order = site_names(model)
    numbers = {order.index(site.name): site.name for site in questions[0].sites}
    columns = [column_of(question.lesson, question.deltas, order) for question in questions]
    counts = [len(column.hidden) for column in columns]
    lists = [question.alternatives for question in questions]
    margins: list[Tensor] = []

    def slope(x: Tensor) -> Tensor:
        found, slopes = weigh(x, lists, model.backbone.norm, model.config.backbone.norm_epsilon)
        margins.extend(found.split(counts))
        return slopes

    inputs, slopes = passes.tangent(columns, slope, numbers)
    parts = [
        {name: values[number].split(counts) for number, name in numbers.items()}
        for values in (inputs, slopes)
    ]
    return [
        Tangent(own, *({name: split[index] for name, split in part.items()} for part in parts))
        for index, own in enumerate(margins)
    ]


@torch.no_grad()
@one_thread()
def compiled_outputs(
    model: "HopeAttention",
    passes: Passes,
    x: Tensor,
    positions: Tensor,
    bias: Tensor,
    keys: Sequence[tuple[Tensor, Tensor]],
    deltas: Deltas,
    pairs: Iterable[tuple[int, int]],
) -> Tensor:
    """See :meth:`HopeAttention.adapted`; ``[P, T, D]`` of pairs of a row and that of its memory."""
    order = site_names(model)
    columns = [
        Column(
            x[row],
            positions[row],
            bias[row],
            [k[row] for k, _ in keys],
            [v[row] for _, v in keys],
            [deltas[name][memory] if name in deltas else None for name in order],
        )
        for row, memory in pairs
    ]
    return passes.forward(columns)[0].view(-1, *x.shape[1:])


def compiled_passes(model: "HopeAttention", reader: Reader) -> Passes | None:
    """Of a model that the kernel reads; None if it differs from the model's own layers."""
    try:
        passes = _passes(model, reader)
        error = _error(model, passes)
        if not error < MAX_ERROR:
            raise BuildError(f"differs from the model's own layers by {error:.3g} of their norm")
    except BuildError as failure:
        give_up(OPERATION, failure)
        return None
    _log.info("learning with the compiled kernel %s", OPERATION)
    return passes


def column_of(lesson: Lesson, deltas: Deltas, order: Sequence[str]) -> Column:
    """A lesson as the kernel reads it, with a memory; ``order`` is that of :func:`site_names`."""
    return Column(
        lesson.hidden[0],
        lesson.positions[0],
        lesson.bias[0],
        [keys[0] for keys, _ in lesson.keys],
        [values[0] for _, values in lesson.keys],
        [deltas[name][0] for name in order],
    )


def _passes(model: "HopeAttention", reader: Reader) -> Passes:
    low = model.config.first_adapted
    transposes = []
    for index, layer in enumerate(model.backbone.layers[low:], low):
        sites = {site.projection: site.name for site in model.memory.sites if site.layer == index}
        transposes.append(
            Transposes(
                products={name: _transposed(linear) for name, linear in products_of(layer).items()},
                subspaces={
                    projection: _transposed(model.memory.geometry[name].subspace)
                    for projection, name in sites.items()
                },
            )
        )
    shapes = {site.name: site.shape for site in model.memory.sites}
    sizes = [shapes[name] for name in site_names(model)]
    return Passes(reader, transposes, sizes, model.rotary.cosines, model.rotary.sines)


def _transposed(linear: FrozenLinear) -> FrozenWeights:
    assert linear.compiled_transpose is not None
    return linear.compiled_transpose


def _error(model: "HopeAttention", passes: Passes) -> float:
    """Of some random question, the greatest one; 0 where the layers answer nothing finite."""
    question = random_question(model)
    (expected,) = layered_tangents(model, [question])
    (found,) = compiled_tangents(model, passes, [question])
    errors = []
    for mine, theirs in zip(_tensors(found), _tensors(expected), strict=True):
        if not bool(theirs.isfinite().all()):
            return 0.0
        errors.append((mine - theirs).norm() / theirs.norm().clamp_min(TINY))
    return float(torch.stack(errors).max())


def _tensors(tangent: Tangent) -> Iterator[Tensor]:
    yield tangent.margins
    for parts in (tangent.inputs, tangent.slopes):
        yield from (parts[name] for name in sorted(parts))


def random_question(model: "HopeAttention") -> Question:
    """What a trial asks."""
    """About random tokens as the model reads them, at a memory that has moved: what is random further in has
    softmaxes so sharp that a slope's rounding decides between tokens.
    """
    make = torch.Generator().manual_seed(0)
    deltas = {}
    for site in model.memory.sites:
        delta = torch.randn(1, *site.shape, generator=make)
        deltas[site.name] = (0.1 * model.weight_norms[site.level.name] * delta / delta.norm()).bfloat16()
    tokens = torch.randint(model.config.vocab_size, (1, SEEN), generator=make)
    cache = model.new_cache(1)
    model.read(cache, [0], tokens, None)
    lesson = gather_lesson(model, cache, 0, [(token, TEXT) for token in tokens[0].tolist()], TRIED)
    assert lesson is not None
    x = model.backbone.final(lesson.outputs[0])
    logits = model.backbone.head(x).float()
    alternatives = Alternatives.of(model, x, logits, lesson.targets[0], model.config.memory.shortlist)
    return Question(lesson, alternatives, deltas, model.memory.sites)
