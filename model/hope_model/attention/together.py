"""Slices of several sessions' writes at once: what reads many weights reads them for all."""

from collections.abc import Sequence

from hope_model.attention.canary import panel_divergences
from hope_model.attention.compiled_tangent import tangents_of
from hope_model.attention.memory import Site
from hope_model.attention.model import HopeAttention
from hope_model.attention.survey import survey_lessons
from hope_model.attention.tangent import Question
from hope_model.attention.write import Write


def step_together(model: HopeAttention, writes: Sequence[Write]) -> None:
    """One slice of each. Questions about the same sites share a pass where an answer's bits do not depend on
    the others (see :func:`tangents_of`), and so do those to the panel; surveys share a product with the head.
    """
    compiled = model.passes is not None
    concluding = [write for write in writes if compiled and write.concluding]
    surveying = [write for write in writes if compiled and write.unseen is not None]
    asking: dict[tuple[Site, ...], list[tuple[Write, Question]]] = {}
    others: list[Write] = []
    for write in writes:
        if write in concluding or write in surveying:
            continue
        question = write.question
        if question is None:
            others.append(write)
        else:
            asking.setdefault(question.sites, []).append((write, question))
    _survey_together(model, surveying)
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


def _survey_together(model: HopeAttention, writes: Sequence[Write]) -> None:
    asked = [(write, part) for write in writes if (part := write.unseen) is not None]
    if not asked:
        return
    teachings = [write.teaching for write, _ in asked]
    found = survey_lessons(model, [part for _, part in asked], teachings)
    for (write, _), surveyed in zip(asked, found, strict=True):
        write.look(surveyed)


def _conclude_together(model: HopeAttention, writes: Sequence[Write]) -> None:
    proposals = [(write, write.propose()) for write in writes]
    asked = [(write, proposal) for write, proposal in proposals if proposal is not None]
    moved = panel_divergences(model, [proposal for _, proposal in asked])
    for write, divergence in zip((write for write, _ in asked), moved, strict=True):
        write.conclude(divergence)
    for write in (write for write, proposal in proposals if proposal is None):
        write.conclude(None)
