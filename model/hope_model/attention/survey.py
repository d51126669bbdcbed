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


class Survey:
    """A lesson's first looks, slice by slice: what of a part was news, then against what that is weighed.

    Args:
        lesson: all of it.
        rows: tokens of a part.
    """

    def __init__(self, lesson: Lesson, rows: int) -> None:
        tokens = lesson.targets.shape[1]
        self._lesson = lesson
        self._left = [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]
        self._surveyed: list[Surveyed] = []
        self._unweighed: tuple[Lesson, News] | None = None
        self.count = len(self._left)
        """Of parts."""
        self.parts: list[tuple[Lesson, Alternatives]] = []
        """Those that had news, and of these what was it."""

    @property
    def slices(self) -> int:
        """That are left, at most."""
        return 2 * len(self._left) + int(self._unweighed is not None)

    @property
    def unseen(self) -> Lesson | None:
        """In what the next slice looks for news, if it does."""
        return self._lesson.only(self._left[0]) if self._left and self._unweighed is None else None

    def look(self, part: Lesson, surveyed: Surveyed) -> None:
        """The slice that ``part``, from :attr:`unseen`, stands for."""
        self._left.pop(0)
        self._surveyed.append(surveyed)
        if surveyed.news is not None:
            self._unweighed = part.only(surveyed.places), surveyed.news

    @property
    def unweighed(self) -> News | None:
        """For what the next slice finds alternatives, if it does."""
        return None if self._unweighed is None else self._unweighed[1]

    def weigh(self, alternatives: Alternatives) -> None:
        """The slice that :attr:`unweighed` stands for."""
        assert self._unweighed is not None
        self.parts.append((self._unweighed[0], alternatives))
        self._unweighed = None

    @property
    def losses(self) -> Tensor:
        """Nats of all tokens that were looked at."""
        return torch.cat([part.losses for part in self._surveyed])

    @property
    def news(self) -> Tensor:
        """Of those that were news."""
        return torch.cat([part.losses[part.places] for part in self._surveyed])


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
