"""Slices of several sessions' writes at once: what reads many weights reads them for all."""

from collections.abc import Sequence

from hope_model.attention.alternatives import News
from hope_model.attention.canary import panel_nats
from hope_model.attention.compiled_tangent import tangents_of
from hope_model.attention.memory import Deltas, Site
from hope_model.attention.model import HopeAttention
from hope_model.attention.survey import survey_lessons, weigh_news
from hope_model.attention.tangent import Lesson, Question
from hope_model.attention.write import Write


def step_together(model: HopeAttention, writes: Sequence[Write]) -> None:
    """One slice of each. Questions about the same sites share a pass where an answer's bits do not depend on
    the others (see :func:`tangents_of`), and so do those to the panel; surveys share a product with the head.
    """
    shares = model.passes is not None
    surveying: list[tuple[Write, Lesson]] = []
    weighing: list[tuple[Write, News]] = []
    asking: dict[tuple[Site, ...], list[tuple[Write, Question]]] = {}
    concluding: list[Write] = []
    others: list[Write] = []
    for write in writes:
        if (question := write.question) is not None:
            asking.setdefault(question.sites, []).append((write, question))
        elif shares and (part := write.survey.unseen) is not None:
            surveying.append((write, part))
        elif shares and (news := write.survey.unweighed) is not None:
            weighing.append((write, news))
        elif shares and write.concluding:
            concluding.append(write)
        else:
            others.append(write)
    _survey_together(model, surveying)
    _weigh_together(model, weighing)
    _conclude_together(model, concluding)
    for write in others:
        write.step()
    groups = list(asking.values())
    if model.backbone.device.type == "cuda":
        groups = [[one] for together in groups for one in together]
    for group in groups:
        tangents = tangents_of(model, [question for _, question in group])
        for (write, _), tangent in zip(group, tangents, strict=True):
            write.answer(tangent)


def _survey_together(model: HopeAttention, asked: Sequence[tuple[Write, Lesson]]) -> None:
    if not asked:
        return
    found = survey_lessons(model, [part for _, part in asked], [write.teaching for write, _ in asked])
    for (write, part), surveyed in zip(asked, found, strict=True):
        write.look(part, surveyed)


def _weigh_together(model: HopeAttention, asked: Sequence[tuple[Write, News]]) -> None:
    if not asked:
        return
    found = weigh_news(model, [news for _, news in asked])
    for (write, _), alternatives in zip(asked, found, strict=True):
        write.weigh(alternatives)


def _conclude_together(model: HopeAttention, writes: Sequence[Write]) -> None:
    asking: dict[int, list[tuple[Write, Deltas]]] = {}
    for write in writes:
        proposal = write.propose()
        if proposal is None:
            write.hear()
        else:
            asking.setdefault(write.asked, []).append((write, proposal))
    for part, asked in asking.items():
        answers = panel_nats(model, part, [proposal for _, proposal in asked])
        for (write, _), nats in zip(asked, answers, strict=True):
            write.hear(nats)
