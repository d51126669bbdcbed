"""What a turn tells of itself: the same figures that the levels' own counters show."""

from typing import Any

import pytest
from tests.model.attention.tiny import PERIOD, tiny_model

from hope_server.engine.request import GenerationRequest, PromptPart, SamplingParams, TurnFigures
from hope_server.sessions.key import SessionKey

Bench = Any


async def turn(service: Any, session: SessionKey | None, parts: Any, most: int) -> TurnFigures:
    told: list[TurnFigures] = []
    sampling = SamplingParams(temperature=0.0, max_tokens=most, ignore_eos=True)
    request = GenerationRequest("r", session, parts, sampling, finished=told.append)
    async for event in service.generate(request):
        assert event.finish_reason is None or told, "the figures come before the last token"
    (figures,) = told
    return figures


@pytest.mark.parametrize("most", [0, 5])
async def test_figures_are_the_difference_that_the_turn_made(bench: Bench, most: int) -> None:
    service = await bench.service()
    session = (await service.create_session("tenant")).key
    before = {"fast": 0, "slower": 0}
    for read in (6, 3, 20):
        parts = (PromptPart("user", tuple(range(read))),)
        figures = await turn(service, session, parts, most)
        levels = {level.name: level for level in await service.levels(session)}
        after = {name: levels[name].writes for name in before}
        assert figures.level_writes == {name: after[name] - before[name] for name in before}
        assert figures.learned_tokens == read + most
        assert figures.drift["fast"] == pytest.approx(levels["fast"].drift_ratio)
        assert figures.seq == (await service.get_session(session)).seq
        before = after


async def test_an_ephemeral_turn_has_no_place(bench: Bench) -> None:
    service = await bench.service()
    figures = await turn(service, None, (PromptPart("user", (1, 2, 3)),), 2)
    assert (figures.seq, figures.learned_tokens) == (None, 5)
    assert figures.level_writes["fast"] == 5


@pytest.mark.parametrize("learn", [True, False])
async def test_only_what_teaches_is_counted(bench: Bench, learn: bool) -> None:
    service = await bench.service(tiny_model(), learn=learn)
    parts = (PromptPart("template", (1, 2)), PromptPart("user", tuple(n % 50 for n in range(PERIOD))))
    figures = await turn(service, None, parts, 4)
    assert figures.learned_tokens == (PERIOD if learn else 0)
