"""What of a lesson is news, and how much: the first look that a write takes."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hope_kernels.torch_threads import one_thread
from hope_model.attention.alternatives import Alternatives, Outlook
from hope_model.attention.tangent import Lesson
from hope_model.attention.teaching import Teaching

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention


@dataclass(frozen=True)
class Surveyed:
    """losses: nats of a lesson's tokens, ``[T]``. news: which of them are worth learning, indices ``[n]``.
    alternatives: against what these are weighed; None where there are none.
    """

    losses: Tensor
    news: Tensor
    alternatives: Alternatives | None


@torch.no_grad()
def survey_lessons(
    model: "HopeAttention", lessons: Sequence[Lesson], teachings: Sequence[Teaching]
) -> list[Surveyed]:
    """Of several sessions in one product with the head, where the compiled kernel computes it: then a
    lesson's bits do not depend on the others.
    """
    counts = [lesson.targets.shape[1] for lesson in lessons]
    with one_thread() if model.passes is not None else nullcontext():
        x = model.backbone.final(torch.cat([lesson.outputs[0] for lesson in lessons]))
        outlook = Outlook(model, x, torch.cat([lesson.targets[0] for lesson in lessons]))
        losses = outlook.losses().split(counts)
        news = [teaching.news(own) for teaching, own in zip(teachings, losses, strict=True)]
        starts = [sum(counts[:number]) for number in range(len(counts))]
        found = iter(
            outlook.alternatives([own + start for own, start in zip(news, starts, strict=True) if len(own)])
        )
        return [
            Surveyed(own, indices, next(found) if len(indices) else None)
            for own, indices in zip(losses, news, strict=True)
        ]
