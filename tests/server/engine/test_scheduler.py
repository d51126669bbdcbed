"""The scheduler against a plain model of what it promises, driven at random."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hope_server.engine.scheduler import Phase, Scheduler
from hope_server.engine.slots import SlotTable
from hope_server.errors import QueueFull, SessionBusy

SLOTS, WAITING, UNCOMMITTED = 3, 4, 3
PROMPT_TOKENS = 10


def scheduler(slots: int = SLOTS, prompt_interval: int = 1, clock: float = 0.0) -> Scheduler:
    return Scheduler(
        SlotTable(slots),
        max_waiting=WAITING,
        max_uncommitted=UNCOMMITTED,
        prompt_interval=prompt_interval,
        prompt_tokens=PROMPT_TOKENS,
        clock=lambda: clock,
    )


class Life(RuleBasedStateMachine):
    """Sessions arrive, read prompts, decode, commit, leave, and are cancelled, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = scheduler()
        self.arrivals: list[str] = []
        self.seated: dict[str, int] = {}  # uncommitted tokens
        self.runnable: dict[str, Phase] = {}
        self.prompts: dict[str, int] = {}  # tokens, in the order in which they became ready
        self.passed_over: dict[str, int] = {}
        self.count = 0

    @rule(again=st.booleans())
    def submit(self, again: bool) -> None:
        session = f"s{self.count % 6}" if again else f"n{self.count}"
        self.count += 1
        at_work = session in self.seated or session in self.arrivals
        full = len(self.arrivals) >= WAITING + SLOTS - len(self.seated)
        if at_work:
            with pytest.raises(SessionBusy):
                self.scheduler.submit(session)
        elif full:
            with pytest.raises(QueueFull):
                self.scheduler.submit(session)
        else:
            self.scheduler.submit(session)
            self.arrivals.append(session)

    @rule()
    def admit(self) -> None:
        grants = self.scheduler.admit()
        free = SLOTS - len(self.seated)
        assert [grant.session for grant in grants] == self.arrivals[:free], "not first come, first served"
        for grant in grants:
            self.arrivals.remove(grant.session)
            self.seated[grant.session] = 0

    @precondition(lambda self: self.seated)
    @rule(
        data=st.data(),
        phase=st.sampled_from([Phase.PROMPT, Phase.BLOCK, Phase.DECODE]),
        tokens=st.integers(1, PROMPT_TOKENS + 2),
    )
    def ready(self, data: st.DataObject, phase: Phase, tokens: int) -> None:
        idle = sorted(self.seated.keys() - self.runnable.keys())
        if idle:
            session = data.draw(st.sampled_from(idle))
            self.scheduler.ready(session, phase, tokens=tokens)
            self.runnable[session] = phase
            if phase is Phase.PROMPT:
                self.prompts[session] = tokens
            self.passed_over[session] = 0

    @rule()
    def plan(self) -> None:
        plan = self.scheduler.plan()
        able = {
            session: phase
            for session, phase in self.runnable.items()
            if phase is Phase.PROMPT or self.seated[session] < UNCOMMITTED
        }
        assert set(plan.decode) == {session for session, phase in able.items() if phase is Phase.DECODE}
        most = max((n for n in range(len(self.prompts) + 1) if self._fits(n)), default=0)
        assert list(plan.prompts) == list(self.prompts)[:most], (
            "not by turns, or not as many as there is room for"
        )
        assert (plan.block is not None) == (Phase.BLOCK in able.values())
        chosen = set(plan.sessions)
        assert len(chosen) == len(plan.sessions)
        for session in plan.prompts:
            del self.prompts[session]
        for session in able:
            self.passed_over[session] += 1
            assert session in chosen or self.passed_over[session] < SLOTS, f"{session} starves"
        for session in chosen:
            if self.runnable.pop(session) is not Phase.PROMPT:
                self.scheduler.sampled(session)
                self.seated[session] += 1

    def _fits(self, count: int) -> bool:
        return count <= 1 or sum(list(self.prompts.values())[:count]) <= PROMPT_TOKENS

    @precondition(lambda self: any(self.seated.values()))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(s for s, waiting in self.seated.items() if waiting)))
        tokens = data.draw(st.integers(1, self.seated[session]))
        self.scheduler.committed(session, tokens)
        self.seated[session] -= tokens

    @precondition(lambda self: self.seated or self.arrivals)
    @rule(data=st.data(), keep=st.booleans())
    def finish(self, data: st.DataObject, keep: bool) -> None:
        session = data.draw(st.sampled_from(sorted([*self.seated, *self.arrivals])))
        self.scheduler.finish(session, keep=keep)
        if session in self.arrivals:
            self.arrivals.remove(session)
        self.seated.pop(session, None)
        self.runnable.pop(session, None)
        self.prompts.pop(session, None)
        self.scheduler.committed(session, 1)  # a commit that lands too late is nobody's

    @invariant()
    def integrity(self) -> None:
        self.scheduler.check_integrity()
        assert self.scheduler.running == len(self.seated) <= SLOTS
        assert self.scheduler.waiting == len(self.arrivals)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_units_of_prompts_share_a_step_that_has_room_for_them() -> None:
    schedule = scheduler(slots=5)
    for session, tokens in (("a", 6), ("b", 3), ("c", 2), ("d", 1), ("e", PROMPT_TOKENS + 5)):
        schedule.submit(session)
        schedule.admit()
        schedule.ready(session, Phase.PROMPT, tokens=tokens)
    assert [schedule.plan().prompts for _ in range(3)] == [("a", "b"), ("c", "d"), ("e",)]
    assert not schedule.plan()


def test_a_long_prompt_costs_those_who_decode_one_unit_a_step() -> None:
    schedule = scheduler()
    for session in ("long", "a", "b"):
        schedule.submit(session)
    schedule.admit()
    for _ in range(5):
        schedule.ready("long", Phase.PROMPT)
        schedule.ready("a", Phase.DECODE)
        schedule.ready("b", Phase.BLOCK)
        plan = schedule.plan()
        assert (plan.prompts, plan.block, plan.decode) == (("long",), "b", ("a",))


def test_prompts_take_turns() -> None:
    schedule = scheduler()
    for session in ("a", "b", "c"):
        schedule.submit(session)
        schedule.admit()
        schedule.ready(session, Phase.PROMPT, tokens=PROMPT_TOKENS)
    order = []
    for _ in range(6):
        (prompt,) = schedule.plan().prompts
        order.append(prompt)
        schedule.ready(prompt, Phase.PROMPT, tokens=PROMPT_TOKENS)
    assert order == ["a", "b", "c"] * 2


def test_the_prompt_interval_holds_prompts_back_only_while_others_decode() -> None:
    schedule = scheduler(prompt_interval=3)
    for session in ("long", "a"):
        schedule.submit(session)
    schedule.admit()
    schedule.ready("long", Phase.PROMPT)
    ran = []
    for _ in range(6):
        schedule.ready("a", Phase.DECODE)
        plan = schedule.plan()
        ran.append(bool(plan.prompts))
        if plan.prompts:
            schedule.ready("long", Phase.PROMPT)
    assert ran == [False, False, True] * 2
    assert schedule.plan().prompts == ("long",)


def test_the_last_token_of_a_turn_waits_for_no_commit() -> None:
    schedule = scheduler()
    schedule.submit("a")
    schedule.admit()
    for _ in range(UNCOMMITTED):
        schedule.sampled("a")
    schedule.ready("a", Phase.DECODE)
    assert not schedule.plan()
    schedule.ready("a", Phase.DECODE, last=True)
    assert schedule.plan().decode == ("a",)


def test_the_wait_for_a_slot_is_measured_by_the_clock_passed_in() -> None:
    now = [10.0]
    schedule = Scheduler(
        SlotTable(1),
        max_waiting=1,
        max_uncommitted=1,
        prompt_interval=1,
        prompt_tokens=1,
        clock=lambda: now[0],
    )
    schedule.submit("a")
    now[0] = 12.5
    (grant,) = schedule.admit()
    assert grant.waited_s == 2.5
