"""What of a lesson is news, and how much, and against what that is weighed: a write's first looks."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hope_kernels.torch_threads import one_thread
from hope_model.attention.alternatives import Alternatives, News, alternatives_of, look_at
from hope_model.attention.tangent import Lesson
from hope_model.attention.teaching import Teaching

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention


@dataclass(frozen=True)
class Surveyed:
    """losses: nats of a lesson's tokens, ``[T]``. places: of those that are worth learning, ``[n]``.
    news: these; None where there are none.
    """

    losses: Tensor
    places: Tensor
    news: News | None


@torch.no_grad()
def survey_lessons(
    model: "HopeAttention", lessons: Sequence[Lesson], teachings: Sequence[Teaching]
) -> list[Surveyed]:
    """Of several sessions in one product with the head, where the compiled kernel computes it: then a
    lesson's bits do not depend on the others.
    """
    counts = [lesson.targets.shape[1] for lesson in lessons]
    with _by_kernel(model):
        x = model.backbone.final(torch.cat([lesson.outputs[0] for lesson in lessons]))
        losses, everything = look_at(model, x, torch.cat([lesson.targets[0] for lesson in lessons]))
        surveyed, start = [], 0
        for teaching, own in zip(teachings, losses.split(counts), strict=True):
            places = teaching.news(own)
            surveyed.append(Surveyed(own, places, everything.only(start + places) if len(places) else None))
            start += len(own)
        return surveyed


@torch.no_grad()
def weigh_news(model: "HopeAttention", asked: Sequence[News]) -> list[Alternatives]:
    """Against what each is weighed; as :func:`survey_lessons`."""
    with _by_kernel(model):
        return alternatives_of(model, asked)


def _by_kernel(model: "HopeAttention") -> AbstractContextManager[object]:
    """Torch's own threads would wait for the kernel's."""
    return one_thread() if model.passes is not None else nullcontext()
