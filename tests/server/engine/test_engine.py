"""The engine on the test's own thread: isolation, damage, and what a step does."""

from dataclasses import replace
from typing import Any

import pytest

from hope_server.engine.engine import Engine
from hope_server.engine.events import Boundary, Done, Event, Failed, Granted, Halted, Sampled
from hope_server.engine.jobs import Generation
from hope_server.engine.observer import NullObserver
from hope_server.engine.request import EngineConfig, SamplingParams
from hope_server.engine.runner import runner_for
from hope_server.engine.steering import steering_for
from hope_server.errors import InternalError, QueueFull
from hope_server.sessions.session import JournalRecord

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


class Steps:
    """An engine, its events by session, and commits that land after every step."""

    def __init__(self, model: Any, **sizes: Any) -> None:
        self.events: dict[str, list[Event]] = {}
        config = replace(EngineConfig(slots=4), **sizes)
        self.runner: Any = runner_for(model, config)
        self.engine = Engine(self.runner, config, sink=self._collect, observer=NullObserver())

    def _collect(self, events: list[tuple[str, Event]]) -> None:
        for session, event in events:
            self.events.setdefault(session, []).append(event)
            if isinstance(event, Sampled):
                self.engine.committed(session, 1)

    def open(self, session: str) -> None:
        self.engine.open(session)
        self.engine.step()

    def start(self, session: str, tokens: Any, params: SamplingParams = GREEDY) -> None:
        self.engine.start(
            session,
            [JournalRecord(1, "run", "user", tuple(tokens))],
            Generation(params, seed=0, steering=steering_for(params, tokens)),
            durable=True,
        )

    def run(self) -> None:
        while self.engine.step():
            self.engine.check_integrity()

    def tokens(self, session: str) -> list[int]:
        return [event.token for event in self.events[session] if isinstance(event, Sampled)]

    def alone(self, tokens: Any, params: SamplingParams = GREEDY) -> tuple[list[int], Any]:
        self.open("alone")
        self.start("alone", tokens, params)
        self.run()
        result = self.tokens("alone"), self.engine.live_row("alone")
        self.engine.release("alone", None)
        return result


@pytest.fixture
def steps(model: Any) -> Steps:
    return Steps(model)


def test_sessions_at_different_positions_get_what_they_get_alone(model: Any, same: Any) -> None:
    steps = Steps(model, slots=7)
    sessions = {f"s{n}": range(n, 2 * n) for n in (1, 3, 7, 8, 9, 20, 40)}
    for late, (session, prompt) in enumerate(sessions.items()):
        steps.open(session)
        steps.start(session, prompt)
        for _ in range(late % 3):
            steps.engine.step()
    steps.run()
    for session, prompt in sessions.items():
        tokens, row = Steps(model).alone(prompt)
        assert steps.tokens(session) == tokens
        assert same(steps.engine.live_row(session), row)


def test_events_come_in_order(steps: Steps) -> None:
    steps.open("s")
    steps.start("s", range(6), SamplingParams(temperature=0.0, max_tokens=4))
    steps.run()
    kinds = [type(event) for event in steps.events["s"]]
    assert kinds == [Granted, Sampled, Sampled, Boundary, Sampled, Sampled, Done]
    done = steps.events["s"][-1]
    assert isinstance(done, Done)
    assert (done.position, done.learned_tokens, done.level_writes) == (10, 10, {"fast": 10, "slower": 2})
    boundary = steps.events["s"][3]
    assert isinstance(boundary, Boundary)
    assert boundary.position == int(boundary.row["position"]) == 8


def test_nan_in_one_row_harms_no_other(model: Any, same: Any) -> None:
    steps = Steps(model)
    for session in ("sick", "well"):
        steps.open(session)
        steps.start(session, range(9))
        steps.engine.step()
    steps.engine.step()
    live = steps.runner._live
    live.state(steps.engine._rows["sick"].slot)["memory"][0, 0, 0] = float("nan")
    steps.run()
    assert steps.events["sick"][-1] == Halted("output", 8)
    assert steps.engine.position("sick") is None
    tokens, row = Steps(model).alone(range(9))
    assert steps.tokens("well") == tokens
    assert same(steps.engine.live_row("well"), row)
    steps.engine.cancel("sick")
    steps.engine.release("sick", 0)
    assert steps.engine.standing("sick") is None
    steps.open("sick")  # the slot is clean for whoever comes next
    steps.start("sick", range(9))
    steps.run()
    assert same(steps.engine.live_row("sick"), row)


def test_nan_in_a_boundary_row_is_found_by_the_block_pass(steps: Steps) -> None:
    steps.open("s")
    steps.start("s", range(3), SamplingParams(temperature=0.0, max_tokens=10))
    steps.engine.step()
    steps.runner._boundary.view(steps.engine._rows["s"].slot)["memory"][0, 0, 0] = float("inf")
    steps.run()
    assert steps.events["s"][-1] == Halted("output", 0)
    assert not any(isinstance(event, Boundary) for event in steps.events["s"])


def test_a_launch_that_raises_ends_its_turns_only(model: Any) -> None:
    steps = Steps(model)
    expected, _ = Steps(model).alone(range(3))
    for session, prompt in (("s", range(3)), ("broken", range(20))):
        steps.open(session)
        steps.start(session, prompt)
    whole = model.block_pass
    model.block_pass = lambda *_: 1 // 0
    steps.engine.step()
    steps.engine.step()
    model.block_pass = whole
    steps.run()
    failed = steps.events["broken"][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InternalError)
    assert steps.tokens("s") == expected


def test_a_reused_slot_starts_from_the_initial_state(model: Any, same: Any) -> None:
    steps = Steps(model, slots=1)
    steps.alone(range(40))
    steps.open("next")
    assert same(steps.engine.live_row("next"), model.initial_state(1))
    assert same(steps.runner.boundary(0), model.initial_state(1))


def test_release_keeps_a_row_only_at_the_committed_position(steps: Steps) -> None:
    for session, committed, kept in (("a", 15, True), ("b", 14, False), ("c", None, False)):
        steps.open(session)
        steps.start(session, range(3))
        steps.run()
        steps.engine.release(session, committed)
        assert (steps.engine.position(session) == 15) is kept
        steps.engine.check_integrity()


def test_a_release_in_the_middle_of_a_job_drops_the_row(steps: Steps) -> None:
    steps.open("s")
    steps.start("s", range(30))
    steps.engine.step()
    steps.engine.release("s", 8)
    assert steps.engine.position("s") is None
    steps.run()
    assert not any(isinstance(event, (Sampled, Done)) for event in steps.events["s"])


def test_a_full_queue_answers_with_an_event(model: Any) -> None:
    steps = Steps(model, slots=1, max_waiting=0)
    steps.open("a")
    steps.open("b")
    (failed,) = steps.events["b"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, QueueFull)


def test_one_that_waits_with_an_idle_row_loses_neither_by_cancelling(model: Any) -> None:
    steps = Steps(model, slots=2)
    steps.open("a")
    steps.start("a", range(3))
    steps.run()
    steps.engine.release("a", 15)
    for session in ("b", "c"):
        steps.engine.open(session)
    steps.engine.open("a")
    steps.engine.cancel("a")
    steps.engine.check_integrity()
    assert steps.engine.position("a") == 15
    steps.run()
    assert steps.engine.position("a") is None  # evicted for c


def test_decoding_goes_on_while_a_long_prompt_is_read(steps: Steps) -> None:
    steps.open("long")
    steps.open("short")
    steps.start("short", range(3))
    steps.start("long", [1] * 400)
    for _ in range(14):
        steps.engine.step()
    assert isinstance(steps.events["short"][-1], Done)
    assert not steps.tokens("long") if "long" in steps.events else True


def test_failing_all_frees_every_slot(steps: Steps) -> None:
    for session in ("a", "b"):
        steps.open(session)
        steps.start(session, range(3))
    steps.engine.fail_all(InternalError("a bug"))
    steps.engine.flush()
    assert {type(steps.events[session][-1]) for session in ("a", "b")} == {Failed}
    assert steps.engine.stats.slots_used == 0
    steps.engine.check_integrity()


@pytest.mark.parametrize("cancel_after", range(8))
def test_a_cancelled_job_ends_within_one_token(steps: Steps, cancel_after: int) -> None:
    steps.open("s")
    steps.start("s", range(20))
    for _ in range(cancel_after):
        steps.engine.step()
    before = len(steps.tokens("s"))
    steps.engine.cancel("s")
    steps.run()
    done = steps.events["s"][-1]
    assert isinstance(done, Done)
    sampled = len(steps.tokens("s"))
    assert sampled == before
    assert done.position == (20 + sampled if sampled or cancel_after >= 2 else 8 * cancel_after)
