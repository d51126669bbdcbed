"""Log-probabilities of a prompt: of every token but the first, however it is cut; the state is the same."""

from itertools import chain
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
from tests.model.attention.tiny import BLOCK, text, tiny_model
from tests.model.small import assert_identical, clone, row_of, small_model

from hope_model.evaluate.tasks.scorer import HopeScorer, Judged
from hope_model.hope import Hope
from hope_model.state import State
from hope_model.tokenizer import Tokenizer
from hope_server.engine.attention_runner import AttentionRunner
from hope_server.engine.jobs import Generation, Job
from hope_server.engine.logprobs import PromptScores, score
from hope_server.engine.request import (
    EngineConfig,
    GenerationRequest,
    PromptPart,
    SamplingParams,
    TokenLogprob,
)
from hope_server.engine.runner import Output, Reading, Runner, runner_for
from hope_server.engine.units import Unit
from hope_server.sessions.session import JournalRecord

Bench = Any


def read(runner: Runner, unit: Unit, *, every: bool) -> Output:
    (output,) = runner.launch([Reading(0, unit, every=every)])
    assert isinstance(output, Output)
    return output


def scores(runner: Runner, tokens: tuple[int, ...], cuts: tuple[int, ...]) -> list[TokenLogprob]:
    """Read `tokens` in runs that end at `cuts`."""
    scored, found, start = PromptScores(4), [], 0
    for end in (*cuts, len(tokens)):
        record = JournalRecord(start + 1, "run", "user", tokens[start:end])
        for unit in runner.cut([record], position=start):
            output = read(runner, unit, every=True)
            assert output.every is not None
            found.append(scored.read(unit.tokens, output.every))
        start = end
    return list(chain.from_iterable(found))


def test_score_is_the_log_softmax() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    nats = logits.log_softmax(-1)
    for index, each in enumerate(score(logits, [0, 3, 8, 8, 2], 3)):
        assert each.logprob == pytest.approx(float(nats[index, each.token]))
        assert [token for token, _ in each.top] == nats[index].topk(3).indices.tolist()
    (best,) = score(logits[:1], [int(logits[0].argmax())], 1)
    assert best.top == ((best.token, best.logprob),)
    assert len(score(logits[:1], [0], 20)[0].top) == 9


@pytest.mark.parametrize("cuts", [(), (1,), (7, 9)])
def test_hope_scores_a_prompt_as_one_forward_does(cuts: tuple[int, ...]) -> None:
    model = small_model()
    config = EngineConfig(slots=1)
    tokens = tuple((7 * n + n // 3) % model.config.vocab_size for n in range(model.config.block + 5))
    runner = runner_for(model, config)
    found = scores(runner, tokens, cuts)
    assert found[0] == TokenLogprob(tokens[0], None, ())
    with torch.inference_mode():
        logits, _ = model(torch.tensor([tokens]), model.initial_state(1))
    expected = score(logits[0, :-1], tokens[1:], 4)
    assert [each.token for each in found] == list(tokens)
    for one, other in zip(found[1:], expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
    plain = runner_for(model, config)
    start = 0
    for end in (*cuts, len(tokens)):
        record = JournalRecord(start + 1, "run", "user", tokens[start:end])
        for unit in plain.cut([record], position=start):
            read(plain, unit, every=False)
        start = end
    for name, tensor in plain.live(0).items():
        assert torch.equal(tensor, runner.live(0)[name]), name


@pytest.mark.compiler
def test_hope_eval_task_goes_on_from_the_states_of_a_served_session() -> None:
    """Block by block, to the bit: those of the forward pass are others."""
    model = small_model(dtype=torch.float32)
    size, blocks = model.config.block, 3
    texts = [tuple((n * n + row) % model.config.vocab_size for n in range(size * blocks)) for row in (3, 5)]
    found, forward = states_before(model, [Judged(text, 1) for text in texts])
    assert len(found) == blocks
    for row, tokens in enumerate(texts):
        runner = runner_for(model, EngineConfig(slots=1))
        units = runner.cut([JournalRecord(1, "run", "user", tokens)], position=0)
        for before, unit in zip(found, units, strict=True):
            assert_identical(row_of(before, row), runner.live(0))
            read(runner, unit, every=True)
    differing = [name for name, tensor in found[-1].items() if not torch.equal(tensor, forward[name])]
    assert differing


def states_before(model: Hope, batch: list[Judged]) -> tuple[list[State], State]:
    """From which `HopeScorer` reads each block; beside the last, the forward pass's own."""
    found: list[State] = []
    forward = model.initial_state(len(batch))
    hidden = model.hidden

    def recorded(tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        found.append(clone(state))
        return hidden(tokens, state)

    with patch.object(model, "hidden", recorded):
        HopeScorer(model, cast(Tokenizer, None)).score(batch)
    tokens = torch.tensor([one.ids for one in batch])
    for block in tokens.split(model.config.block, dim=1)[:-1]:
        forward = hidden(block, forward)[1]
    return found, forward


def test_hope_attention_scores_a_prompt_as_it_reads_it_token_by_token() -> None:
    """Past a boundary and the writes before it, to the bit."""
    tokens = tuple(text(BLOCK + 30).tokens)
    found = scores(AttentionRunner(tiny_model(), slots=1, learn=True), tokens, (3, 40))
    single = AttentionRunner(tiny_model(), slots=1, learn=True)
    logits = torch.stack([single.run(0, Unit("run", (token,), ("user",))).logits for token in tokens])
    assert found[1:] == list(score(logits[:-1], tokens[1:], 4))


async def test_a_request_gets_its_prompt_s_scores_before_its_tokens(bench: Bench) -> None:
    service = await bench.service()
    scored: list[TokenLogprob] = []
    when: list[int] = []

    def take(logprobs: tuple[TokenLogprob, ...]) -> None:
        scored.extend(logprobs)
        when.append(len(events))

    events: list[Any] = []
    for most, expected in ((3, 3), (0, 0)):
        scored.clear()
        events.clear()
        request = GenerationRequest(
            f"r{most}",
            None,
            (PromptPart("text", tuple(range(20))),),
            SamplingParams(temperature=0.0, max_tokens=most, logprobs=1, prompt_logprobs=1),
            scored=take,
        )
        async for event in service.generate(request):
            events.append(event)
        assert [each.token for each in scored] == list(range(20))
        assert (scored[0].logprob, set(when)) == (None, {0})
        assert len(events) == expected
        assert all(event.logprob.top[0] == (event.token, event.logprob.logprob) for event in events)


def test_only_a_prompt_is_scored() -> None:
    generation = Generation(SamplingParams(), 0, scores=PromptScores(1))
    job = Job.turn([Unit("run", (1,))], generation, durable=True)
    assert job.scores is generation.scores
    generation.accept(5)
    assert job.scores is None
