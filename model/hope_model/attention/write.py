"""A write (E27): what a period teaches goes into the memory, in rounds, slice by slice."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_kernels.torch_threads import one_thread
from hope_model.attention.alternatives import Alternatives
from hope_model.attention.canary import panel_nats
from hope_model.attention.compiled_tangent import tangents_of
from hope_model.attention.config import MemoryLevel
from hope_model.attention.memory import Deltas, Site
from hope_model.attention.model import HopeAttention
from hope_model.attention.survey import Survey, Surveyed, survey_lessons, weigh_news
from hope_model.attention.tangent import Lesson, Pushes, Question, Tangent
from hope_model.attention.teaching import teaching_of
from hope_model.state import State
from hope_model.streaks import Frozen

GUARDED = 4
"""Every so many writes, one is judged by a canary text."""
DRAWN_BACK = 1 / 3
"""Power of the divergence with which a memory shrinks, measured: at 3/4 of its size it is a third."""
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Written:
    """The state tensors that a write replaces, and which due levels applied it.

    refusal: why the guards refused it; NO if they did not. divergence: nats by which a canary's answers
    moved, where one was asked.
    """

    state: State
    applied: dict[str, bool]
    refusal: Frozen = Frozen.NO
    divergence: float | None = None


class Write:
    """Call :meth:`step` until :attr:`slices` is 0, then take :meth:`result`.

    First the lesson is surveyed: what was news, and how much. Then come the rounds: each takes the margins of
    what was news at the memory as it stands, solves for the change that teaches it, and goes there as far as
    the first order can be trusted.

    Args:
        model: frozen.
        levels: those that are due.
        state: the session's, ``[1, ...]``; not changed.
        lesson: what to learn.
    """

    def __init__(
        self, model: HopeAttention, levels: Sequence[MemoryLevel], state: State, lesson: Lesson
    ) -> None:
        self._model, self._levels = model, tuple(levels)
        self.teaching = teaching_of(lesson)
        self._sites = [site for site in model.memory.sites if site.level in self._levels]
        self._before = state
        self._moved = {site.name: torch.zeros_like(state[f"{site.name}.delta"][0]) for site in self._sites}
        self.survey = Survey(lesson, model.config.memory.rows)
        self._weights = torch.zeros(0)
        self._parts: list[tuple[Lesson, Alternatives]] = []
        self._tangents: list[Tangent] = []
        self._round = 0
        self._rounds = max(map(self.teaching.rounds, self._levels))
        self._held: dict[str, Tensor] | None = None
        self._proposal: Deltas | None = None
        self._heard: list[Tensor] = []
        self._concluded = False
        self._refusal = Frozen.NO
        self._divergence: float | None = None

    @property
    def slices(self) -> int:
        """Slices that are left: at most, before the survey's end and before canaries are asked."""
        last = 0 if self._concluded else max(1, len(self._model.panel)) - len(self._heard)
        if self.survey.slices:
            return self.survey.slices + self._rounds * (self.survey.count + 1) + last
        each = len(self._parts) + 1 if self._parts else 0
        return (self._rounds - self._round) * each - len(self._tangents) + last

    def step(self) -> None:
        """One slice: a survey of some tokens, against what some are weighed, margins of some, what a round
        makes of all of them, or what some canaries make of it in the end.
        """
        if (question := self.question) is not None:
            self.answer(*tangents_of(self._model, [question]))
        elif (part := self.survey.unseen) is not None:
            self.look(part, *survey_lessons(self._model, [part], [self.teaching]))
        elif (news := self.survey.unweighed) is not None:
            self.weigh(*weigh_news(self._model, [news]))
        elif self._tangents:
            self._learn(Tangent.join(self._tangents))
            self._tangents = []
            self._round += 1
        else:
            proposal = self.propose()
            asked = [] if proposal is None else [proposal]
            self.hear(*panel_nats(self._model, self.asked, asked))

    @property
    def concluding(self) -> bool:
        """Whether the next slice is one of the last."""
        return not (self.survey.slices or self._tangents or self._asks or self._concluded)

    @property
    def asked(self) -> int:
        """Which part of the panel the next slice asks, if it is one of the last."""
        return len(self._heard)

    @property
    def _asks(self) -> bool:
        asked = len(self._tangents) == len(self._parts)
        return not (self.survey.slices or self._round >= self._rounds or asked)

    @property
    def question(self) -> Question | None:
        """What the next slice has to know, so that it can share a pass; None for a slice of another kind."""
        if not self._asks:
            return None
        part, alternatives = self._parts[len(self._tangents)]
        return Question(part, alternatives, self._deltas(), tuple(self._active))

    def answer(self, tangent: Tangent) -> None:
        """The slice that :attr:`question` stands for."""
        self._tangents.append(tangent)

    def finish(self) -> Written:
        """Every slice that is left, then :meth:`result`."""
        while self.slices:
            self.step()
        return self.result()

    def result(self) -> Written:
        """What was learned; when the write is refused, every level keeps what it had."""
        fine = self._refusal is Frozen.NO
        held = self._held if fine and self._held is not None else {}
        state = self._before | {f"{name}.delta": delta[None] for name, delta in held.items()}
        applied = {level.name: fine for level in self._levels}
        return Written(state, applied, self._refusal, self._divergence)

    def look(self, part: Lesson, surveyed: Surveyed) -> None:
        """The slice that ``part``, from the survey, stands for."""
        self.survey.look(part, surveyed)
        if not self.survey.slices:
            self._choose()

    def weigh(self, alternatives: Alternatives) -> None:
        """The slice that finds alternatives for what was news."""
        self.survey.weigh(alternatives)
        if not self.survey.slices:
            self._choose()

    def _choose(self) -> None:
        """Weigh what was news against the whole lesson."""
        losses, news = self.survey.losses, self.survey.news
        fine = self._require_finite([losses])
        worth = self.teaching.worth(losses) if fine else 0.0
        self._weights = self.teaching.weights(news, worth)
        self._rounds = math.ceil(self._rounds * worth)
        if bool(self._weights.any()):
            self._parts = self.survey.parts

    @torch.no_grad()
    @one_thread()
    def _learn(self, tangent: Tangent) -> None:
        """Go where the margins, taken as linear, say that the lesson is learned."""
        pushes = Pushes(tangent, self._active, self._model.memory)
        wanted = self.teaching.wanted(pushes, tangent, self._moved, self._weights)
        for level in self._levels:
            names = [site.name for site in self._active if site.level == level]
            self._go(level, {name: wanted[name] for name in names})

    def _go(self, level: MemoryLevel, wanted: dict[str, Tensor]) -> None:
        if not wanted:
            return
        step = {name: change - self._moved[name] for name, change in wanted.items()}
        factor = self.teaching.factor(level, self._norm(step).clamp_min(TINY))
        for name, change in step.items():
            self._moved[name] = self._moved[name] + factor * change

    def propose(self) -> Deltas | None:
        """One of the last slices begins: what the memory would be, ``[1, r, out]`` in the weights' type, if
        canaries are to be asked about it.
        """
        if self._held is None:
            self._held = self._gather()
            fine, bounded = self._require_finite(self._held.values()), self._most_divergence < math.inf
            if fine and bounded and self._model.panel:
                self._proposal = self._cast(self._after(self._held))
        return self._proposal

    @torch.no_grad()
    @one_thread()
    def _gather(self) -> dict[str, Tensor]:
        """What the memory would be, each level within its bounds."""
        held: dict[str, Tensor] = {}
        for level in self._levels:
            names = [site.name for site in self._sites if site.level == level]
            moved = {name: self._before[f"{name}.delta"][0] + self._moved[name] for name in names}
            held |= self._bounded(level, moved)
        return held

    def hear(self, *nats: Tensor) -> None:
        """And ends, with what they answer if they were asked; the last one refuses what has gone astray."""
        self._heard += nats
        if not nats or len(self._heard) == len(self._model.panel):
            self._conclude()

    @torch.no_grad()
    def _conclude(self) -> None:
        assert self._held is not None
        if self._heard:
            self._held = self._drawn_back(self._held, float(torch.cat(self._heard).mean()))
        number, canaries = int(self._before["writes"].sum()), self._model.canaries
        if self._require_finite(self._held.values()) and canaries and number % GUARDED == GUARDED - 1:
            canary = canaries[number // GUARDED % len(canaries)]
            self._judge(float(canary.divergence(self._model, self._cast(self._after(self._held)))[0]))
        self._concluded = True

    def _judge(self, divergence: float) -> None:
        if math.isfinite(divergence):
            self._divergence = divergence
        if not divergence <= self._model.config.memory.canary:
            self._refusal = Frozen.CANARY

    def _require_finite(self, tensors: Iterable[Tensor]) -> bool:
        """Refuse the write, unless it is refused already or all of ``tensors`` are finite."""
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            self._refusal = Frozen.NON_FINITE
        return self._refusal is Frozen.NO

    def _bounded(self, level: MemoryLevel, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """Within the level's norm, or within what it had before if that was more."""
        norm, limit = self._norm(held).clamp_min(TINY), self.teaching.limit(level)
        if bool(norm <= limit):
            return held
        before = self._norm({name: self._before[f"{name}.delta"][0] for name in held})
        factor = before.clamp_min(limit) / norm
        return held if bool(factor >= 1) else {name: delta * factor for name, delta in held.items()}

    @property
    def _most_divergence(self) -> float:
        return self.teaching.max_divergence(self._model.config.memory)

    def _drawn_back(self, held: dict[str, Tensor], moved: float) -> dict[str, Tensor]:
        """Nearer to theta when the answers of all canaries have moved too far (E28).

        The norm does not see that: it adds up the sites as if each moved the answers in a way of its own.
        """
        limit = self._most_divergence
        if not math.isfinite(moved):
            self._refusal = Frozen.CANARY
        if not limit < moved < math.inf:
            return held
        factor = (limit / moved) ** DRAWN_BACK
        return {name: factor * delta for name, delta in held.items()}

    def _norm(self, deltas: dict[str, Tensor]) -> Tensor:
        """In the Fisher metric."""
        batched = {name: delta[None] for name, delta in deltas.items()}
        return self._model.memory.squared_norm(batched, list(batched))[0].clamp_min(0.0).sqrt()

    @property
    def _active(self) -> list[Site]:
        """Sites that this round may change."""
        return [site for site in self._sites if self._round < self.teaching.rounds(site.level)]

    def _after(self, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """All sites, those of ``held`` as they would be."""
        return self._all_before() | {name: delta[None] for name, delta in held.items()}

    def _deltas(self) -> Deltas:
        """The memory as it stands, ``[1, r, out]`` in the weights' type."""
        held = self._all_before()
        return self._cast(held | {name: held[name] + moved for name, moved in self._moved.items()})

    def _all_before(self) -> dict[str, Tensor]:
        return {site.name: self._before[f"{site.name}.delta"] for site in self._model.memory.sites}

    def _cast(self, deltas: dict[str, Tensor]) -> Deltas:
        return {name: delta.to(self._model.backbone.dtype) for name, delta in deltas.items()}
