"""Every rule of the registry behind the service: the same bits in company, after a restart, and in a fork."""

import asyncio
from typing import Any

import pytest
from tests.model.small import Parts, build, small_config

from hope_model.hope import Hope
from hope_model.rules import RULES
from hope_server.sessions.key import SessionKey

Bench = Any

VOCABULARY = 50
PROMPTS = (1, 9, 16, 39)
"""Around and inside blocks of 16, so that rows of one batch differ in position and phase."""
TOKENS = 20


@pytest.fixture(scope="module", params=sorted(RULES))
def hope(request: pytest.FixtureRequest) -> Hope:
    import torch

    options = {"transformer": {"capacity": 24}, "samba": {"window": 12}}.get(request.param, {})
    config = small_config(Parts(rule=request.param), vocab_size=VOCABULARY, rule_options=options)
    return build(config, torch.float32).eval()


def prompt(length: int) -> list[int]:
    return [(37 * i + length) % VOCABULARY for i in range(length)]


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def test_company_a_restart_and_a_fork_change_no_bit(bench: Bench, hope: Hope, same: Any) -> None:
    service, other = await bench.service(hope, slots=8), await bench.service(hope, slots=1)
    crowd = [await new(service) for _ in PROMPTS]
    together = await asyncio.gather(
        *(bench.turn(service, session, prompt(n), TOKENS) for session, n in zip(crowd, PROMPTS, strict=True))
    )
    restarted = await bench.service(hope, slots=2)
    for session, length, found in zip(crowd, PROMPTS, together, strict=True):
        alone = await new(other)
        expected = await bench.turn(other, alone, prompt(length), TOKENS)
        assert [event.token for event in found] == [event.token for event in expected]
        assert same(await bench.row(restarted, session), await bench.row(other, alone))
        again = await bench.turn(restarted, session, prompt(3), TOKENS)
        expected = await bench.turn(other, alone, prompt(3), TOKENS)
        assert [event.token for event in again] == [event.token for event in expected]
        fork = (await restarted.fork_session(session, seq=None)).key
        assert same(await bench.row(restarted, fork), await bench.row(other, alone))
