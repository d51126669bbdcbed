"""All that an engine's step does, for sessions of either family, in one story that any device can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.server.engine.test_engine import Steps

from hope_model.state import State
from hope_server.engine.events import Boundary, Done, Failed, Halted, Scored
from hope_server.engine.jobs import Generation
from hope_server.engine.logprobs import PromptScores
from hope_server.engine.request import SamplingParams
from hope_server.engine.runner import ServedModel
from hope_server.engine.steering import steering_for
from hope_server.sessions.codec import decode_row, encode_row
from hope_server.sessions.session import JournalRecord, Origin

ROOM = 1 << 30
GREEDY = SamplingParams(temperature=0.0, max_tokens=9, ignore_eos=True)
STEERED = SamplingParams(
    temperature=0.8,
    top_k=9,
    top_p=0.9,
    max_tokens=5,
    min_tokens=3,
    stop_token_ids=frozenset({2}),
    logit_bias=((3, 1.5),),
    presence_penalty=0.3,
    frequency_penalty=0.2,
    repetition_penalty=1.2,
    logprobs=3,
)
PLAIN = SamplingParams(temperature=1.0, max_tokens=4, ignore_eos=True)


@dataclass
class Story:
    """What came of it. greedy: the tokens of the session that is asked for its likeliest ones. row: its state
    at its last boundary, as the store gave it back. replayed: the live state of another session that read the
    same journal.
    """

    greedy: list[int] = field(default_factory=list)
    row: State = field(default_factory=dict)
    live: State = field(default_factory=dict)
    replayed: State = field(default_factory=dict)
    drift: dict[str, float] = field(default_factory=dict)


class _Half:
    """A constraint: the first half of the vocabulary may come."""

    over = False

    def __init__(self, vocab: int) -> None:
        half = vocab // 16
        self._bits = bytes([255] * half) + bytes(-(-vocab // 8) - half)

    def allowed(self) -> bytes:
        return self._bits

    def accept(self, token: int) -> None:
        assert token < 8 * len(self._bits)


def tell(model: ServedModel, **sizes: Any) -> Story:
    """Three sessions on two slots: admission, prompts over a boundary, decode of both together with every
    option of sampling, parking and coming back, a snapshot through the store's form, replay, freezing.
    """
    story, steps = Story(), Steps(model, slots=2, host_state_bytes=ROOM, **sizes)
    vocab, block = model.config.vocab_size, model.config.block
    prompt = [1 + (7 * place) % (vocab - 1) for place in range(block + block // 2)]
    for session in ("greedy", "steered"):
        steps.open(session)
    _start(steps, "greedy", prompt, GREEDY)
    _start(steps, "steered", prompt[: min(block // 2, 40)], STEERED, constraint=_Half(vocab))
    steps.run()
    steps.engine.release("steered", steps.engine.position("steered"))
    steps.open("third")  # "steered" has to leave its slot
    _start(steps, "third", prompt[:5], PLAIN, learn=False)
    steps.run()
    steps.engine.release("third", steps.engine.position("third"))
    assert steps.engine.stats.host_rows == 1
    steps.open("steered")  # and comes back
    assert steps.engine.stats.host_hits == 1
    _start(steps, "steered", prompt[:3], PLAIN)
    steps.run()
    story.greedy = steps.tokens("greedy")
    story.live = steps.engine.live_row("greedy")
    story.drift = _done(steps, "greedy").drift
    levels = steps.engine.levels("greedy")
    assert levels is not None
    assert any(level.writes for level in levels)
    _replay(steps, story, [*prompt, *story.greedy], block)
    return story


def _replay(steps: Steps, story: Story, tokens: list[int], block: int) -> None:
    """From its stored boundary, another session comes to the same state; a third one is frozen there."""
    boundary = [event for event in steps.events["greedy"] if isinstance(event, Boundary)][-1]
    spec = steps.runner.spec
    assert on_host(boundary.row)
    story.row = decode_row(spec, encode_row(spec, boundary.row, boundary.position), boundary.position)
    steps.engine.release("steered", None)
    steps.engine.release("greedy", None)
    rest = tokens[boundary.position : boundary.position + block // 2]
    runs = [JournalRecord(boundary.position + 1, "run", "user", tuple(rest[:4]))]
    runs += [
        JournalRecord(boundary.position + 5 + place, "step", "model", (token,))
        for place, token in enumerate(rest[4:])
    ]
    for session, freeze_at in (("again", None), ("frozen", boundary.position)):
        steps.open(session)
        scores = PromptScores(2) if session == "again" else None
        read = runs[:1] if scores else runs
        steps.engine.load(
            session, story.row, boundary.position, read, scores, freeze_at=freeze_at, owned=True
        )
        steps.run()
        _done(steps, session)
    assert any(isinstance(event, Scored) for event in steps.events["again"])
    story.replayed = steps.engine.live_row("frozen")


def _start(
    steps: Steps,
    session: str,
    tokens: Sequence[int],
    params: SamplingParams,
    *,
    constraint: _Half | None = None,
    learn: bool = True,
    origin: Origin = "user",
) -> None:
    steps.engine.start(
        session,
        [JournalRecord(1, "run", origin, tuple(tokens), learn)],
        Generation(params, seed=5, steering=steering_for(params, tokens, constraint), learn=learn),
        durable=True,
    )


def _done(steps: Steps, session: str) -> Done:
    """How its last job ended."""
    bad = [event for event in steps.events[session] if isinstance(event, Failed | Halted)]
    for event in bad:
        raise event.error if isinstance(event, Failed) else AssertionError(event)
    return [event for event in steps.events[session] if isinstance(event, Done)][-1]


def on_host(row: State) -> bool:
    """Whether all of a row is plain memory of the host."""
    return all(type(tensor) is torch.Tensor for tensor in row.values())
