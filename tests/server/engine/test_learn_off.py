"""Turns with learn off, of both families: what they leave, and that every way back repeats them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import torch
from tests.model.attention.tiny import DELAY, PERIOD, VOCAB, tiny_model
from tests.model.small import small_model

from hope_model.state import State
from hope_server.engine.request import GenerationRequest, PromptPart, SamplingParams, TurnFigures
from hope_server.sessions.key import SessionKey

Bench = Any
Same = Callable[[State, State], bool]
MODELS: dict[str, Callable[[], Any]] = {
    "hope": lambda: small_model(dtype=torch.float32),
    "hope_attention": tiny_model,
}
ANSWER = 12
LENGTHS = (2 * PERIOD, PERIOD + 7, 2 * PERIOD + DELAY + 3, 9)
"""Prompts: the second and the third go over ends of every period."""
QUIET = (False, True, True, False)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def words(model: Any, length: int) -> tuple[int, ...]:
    vocab = min(VOCAB, model.config.vocab_size)
    return tuple((37 * place + place * place // 7 + length) % vocab for place in range(length))


async def turn(
    service: Any, model: Any, session: SessionKey | None, length: int, *, learn: bool, **more: Any
) -> tuple[list[int], TurnFigures]:
    told: list[TurnFigures] = []
    request = GenerationRequest(
        "r",
        session,
        (PromptPart("user", words(model, length)),),
        SamplingParams(temperature=1.0, seed=length, max_tokens=ANSWER, ignore_eos=True),
        finished=told.append,
        learn=learn,
        **more,
    )
    tokens = [event.token async for event in service.generate(request)]
    return tokens, told[0]


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def talk(service: Any, model: Any, session: SessionKey) -> AsyncIterator[TurnFigures]:
    for length, quiet in zip(LENGTHS, QUIET, strict=True):
        yield (await turn(service, model, session, length, learn=not quiet))[1]


def taught(state: State) -> State:
    """What only teaching changes."""
    return {
        name: tensor
        for name, tensor in state.items()
        if name.endswith((".delta", ".gradient")) and ".phi." not in name
    }


async def test_it_teaches_nothing_and_says_so(bench: Bench, model: Any, same: Same) -> None:
    service = await bench.service(model)
    session = await new(service)
    await turn(service, model, session, 2 * PERIOD, learn=True)
    await turn(service, model, session, DELAY, learn=False)  # what was taught becomes active in it
    before = await bench.row(service, session)
    _, figures = await turn(service, model, session, 2 * PERIOD + DELAY, learn=False)
    after = await bench.row(service, session)
    assert taught(before)
    assert same(taught(after), taught(before))
    assert figures.learned_tokens == 0
    levels = [name for name in figures.level_writes if name not in ("phi", "projections")]
    assert [figures.level_writes[name] for name in levels] == [0] * len(levels)
    _, figures = await turn(service, model, session, 2 * PERIOD + DELAY, learn=True)
    assert figures.learned_tokens > 0
    assert not same(taught(await bench.row(service, session)), taught(before))


async def test_the_journal_says_whose_tokens_teach(bench: Bench, model: Any) -> None:
    service = await bench.service(model)
    session = await new(service)
    async for _ in talk(service, model, session):
        pass
    records = await bench.store.records(session, after=0, limit=1000)
    found = [(record.learn, len(record.tokens)) for record in records]
    quiet = [length + ANSWER for length, off in zip(LENGTHS, QUIET, strict=True) if off]
    assert sum(tokens for learn, tokens in found if not learn) == sum(quiet)
    assert sum(tokens for _, tokens in found) == sum(LENGTHS) + ANSWER * len(LENGTHS)


async def test_replay_takeover_and_fork_come_to_the_same_bits(bench: Bench, model: Any, same: Same) -> None:
    service = await bench.service(model)
    session = await new(service)
    async for _ in talk(service, model, session):
        pass
    assert (await service.verify_session(session)).equal
    row = await bench.row(service, session)
    other = await bench.service(model, slots=1)  # nothing is asked of the first one any more
    assert same(await bench.row(other, session), row)
    fork = (await other.fork_session(session, seq=None, name=None)).key
    assert same(await bench.row(other, fork), row)
    assert (await other.verify_session(fork)).equal
    expected, _ = await turn(other, model, fork, 30, learn=True)
    bench.store.expire(session)
    found, _ = await turn(service, model, session, 30, learn=True)
    assert found == expected


async def test_an_export_keeps_it(bench: Bench, model: Any, same: Same) -> None:
    service = await bench.service(model)
    session = await new(service)
    async for _ in talk(service, model, session):
        pass
    data = b"".join([piece async for piece in service.export_session(session)])
    copy = (await service.import_session("tenant", await service.open_export(data))).key
    assert same(await bench.row(service, copy), await bench.row(service, session))
    assert (await service.verify_session(copy)).equal


async def test_company_changes_no_bit_whoever_learns(bench: Bench, model: Any, same: Same) -> None:
    service, other = await bench.service(model, slots=8), await bench.service(model, slots=1)
    turns = [(length, learn) for length in LENGTHS for learn in (True, False)]
    crowd = [await new(service) for _ in turns]
    together = await asyncio.gather(
        *(
            turn(service, model, session, length, learn=learn)
            for session, (length, learn) in zip(crowd, turns, strict=True)
        )
    )
    for session, (length, learn), found in zip(crowd, turns, together, strict=True):
        alone = await new(other)
        assert found[0] == (await turn(other, model, alone, length, learn=learn))[0]
        assert same(await bench.row(service, session), await bench.row(other, alone))
    await service.check_integrity()


async def test_scores_of_a_quiet_prompt_are_those_that_it_was_read_with(bench: Bench, model: Any) -> None:
    """The pass beside the state, which scores a prompt, has to leave out the same writes."""
    service = await bench.service(model)
    found: list[float | None] = []
    sampling = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    prompt = words(model, 15)
    request = GenerationRequest(
        "r",
        None,
        (PromptPart("user", prompt),),
        sampling,
        scored=lambda tokens: found.extend(token.logprob for token in tokens),
        learn=False,
    )
    async for _ in service.generate(request):
        pass
    for count in (9, 14):  # beyond the first period of hope's
        one = GenerationRequest(
            "r",
            None,
            (PromptPart("user", prompt[:count]),),
            SamplingParams(
                temperature=0.0,
                max_tokens=1,
                ignore_eos=True,
                logprobs=0,
                logit_bias=((prompt[count], 100.0),),
            ),
            learn=False,
        )
        (event,) = [event async for event in service.generate(one)]
        assert event.logprob.logprob == pytest.approx(found[count], rel=1e-2, abs=1e-3)
