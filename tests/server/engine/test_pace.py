"""How learning is spread over decoding: in time, evenly, and nobody waits for ever."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hope_server.engine.pace import EARLY, TOGETHER, LearningPace, together

EPSILON = 1e-6


@dataclass
class Work:
    """A session's backlog."""

    slices: int
    tokens: int


def step(
    pace: LearningPace, works: dict[str, Work], advanced: dict[str, int], *, beside_prompts: bool = False
) -> list[list[str]]:
    """Sessions read tokens; what the pace chooses is worked off."""
    for session, tokens in advanced.items():
        works[session].tokens -= tokens
    begun = {name: work for name, work in works.items() if work.slices}
    groups = pace.choose(begun, advanced, beside_prompts=beside_prompts)
    for session in itertools.chain(*groups):
        works[session].slices -= 1
        assert works[session].slices >= 0
    return groups


def slices(groups: list[list[str]]) -> int:
    return sum(map(len, groups))


SESSIONS = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.integers(1, 40), st.integers(1, 130)), min_size=1
)
"""Slices by session, and the tokens before which they are due."""


def begin(sizes: dict[str, tuple[int, int]]) -> dict[str, Work]:
    """As a session finds it that still reads the token at which its work begins."""
    return {name: Work(slices, tokens + 1) for name, (slices, tokens) in sizes.items()}


def moving(works: dict[str, Work]) -> dict[str, int]:
    """One token for everybody whose work is not due yet."""
    return {name: 1 for name, work in works.items() if work.tokens > 1}


@given(
    sizes=SESSIONS,
    idle=st.sets(st.sampled_from("abcdef")),
    later=st.lists(st.tuples(st.integers(1, 50), st.sampled_from("abcdef"), st.integers(1, 30)), max_size=4),
)
def test_who_reads_a_token_a_step_is_done_in_time(
    sizes: dict[str, tuple[int, int]], idle: set[str], later: list[tuple[int, str, int]]
) -> None:
    """Whatever the others do, and also with slices that come up before the same deadline: a write begins
    when its window has been encoded.
    """
    pace, works, steps = LearningPace(), begin(sizes), 0
    while advanced := {name: 1 for name in moving(works) if name not in idle}:
        steps += 1
        for at, name, slices in later:
            if at == steps and advanced.get(name) and works[name].tokens > 2:
                works[name].slices += slices
        step(pace, works, advanced)
        for name in advanced:
            assert works[name].tokens > 1 or not works[name].slices, f"{name} would be worked off at once"


@given(SESSIONS, st.booleans())
def test_no_step_does_more_than_it_must(sizes: dict[str, tuple[int, int]], beside_prompts: bool) -> None:
    """One pass, or as many as bring all in time, token by token; none beside prompts that can wait. Who has
    no token to spare gets a slice on credit.
    """
    pace, works = LearningPace(), begin(sizes)
    while advanced := moving(works):
        size = together(len(advanced))
        names = sorted(advanced, key=lambda name: works[name].tokens)
        needed = max(
            max(
                sum(works[one].slices for one in names[:k]) / size,
                max(works[one].slices for one in names[:k]),
            )
            / (works[names[k - 1]].tokens - 1)
            for k in range(1, len(names) + 1)
        )
        pressed = sum(works[name].slices >= works[name].tokens - 1 for name in advanced)
        most = math.ceil(needed + EPSILON) if needed >= 1 - EPSILON else int(not beside_prompts)
        done = slices(step(pace, works, advanced, beside_prompts=beside_prompts))
        assert done <= most * size + pressed


@given(st.integers(2, 20), st.integers(1, 8), st.integers(20, 130))
def test_sessions_in_step_share_their_passes(sessions: int, slices_each: int, tokens: int) -> None:
    """As many as may; only a remainder is smaller."""
    size = together(sessions)
    pace, works = LearningPace(), begin({str(number): (slices_each, tokens) for number in range(sessions)})
    groups: list[list[str]] = []
    while advanced := moving(works):
        groups += step(pace, works, advanced)
    assert all(len(set(group)) == len(group) <= size for group in groups)
    assert len(groups) <= math.ceil(sessions / size) * slices_each + size


@given(st.integers(1, 40), st.integers(1, 130))
def test_one_sessions_work_is_spread_evenly(count: int, tokens: int) -> None:
    """Most of it over the first of its tokens, so that a prompt may come then."""
    pace, works = LearningPace(), begin({"a": (count, tokens)})
    done = [slices(step(pace, works, {"a": 1})) for _ in range(tokens)]
    assert sum(done) == count
    assert max(done) <= math.ceil(count / tokens) + 1
    if count * EARLY <= tokens:
        assert sum(done[: tokens // EARLY]) >= count / 2 - 1


@given(sizes=SESSIONS, steps=st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 64))))
def test_only_those_that_read_are_worked_for_the_nearest_deadline_first(
    sizes: dict[str, tuple[int, int]], steps: list[dict[str, int]]
) -> None:
    pace, works = LearningPace(), begin(sizes)
    for wanted in steps:
        advanced = {name: min(wanted.get(name, 0), work.tokens - 1) for name, work in works.items()}
        advanced = {name: tokens for name, tokens in advanced.items() if tokens}
        left = {name: work.slices for name, work in works.items()}
        for group in step(pace, works, advanced):
            assert set(group) <= advanced.keys()
            others = [works[name].tokens for name in advanced if left[name] and name not in group]
            pressed = all(left[name] >= works[name].tokens for name in group)
            assert pressed or all(works[name].tokens <= tokens for name in group for tokens in others)
            for name in group:
                left[name] -= 1


@given(SESSIONS)
def test_who_stood_still_is_in_time_afterwards(sizes: dict[str, tuple[int, int]]) -> None:
    """One after the other: nobody is forgotten, nobody pays for what is over."""
    pace, works = LearningPace(), begin(sizes)
    for name, (count, tokens) in sizes.items():
        while works[name].tokens > 1:
            assert slices(step(pace, works, {name: 1})) <= math.ceil(count / tokens + EPSILON) + 1
        assert works[name].slices == 0


def test_a_long_run_pays_for_its_tokens() -> None:
    """In three steps of the same length: that which begins the work, the next, and that which ends it."""
    pace, works = LearningPace(), {"a": Work(24, 64 + 128)}
    assert slices(step(pace, works, {"a": 64})) == 8
    assert slices(step(pace, works, {"a": 64})) == 8


def test_who_reads_nothing_owes_nothing() -> None:
    pace, works = LearningPace(), {"a": Work(5, 10)}
    assert step(pace, works, {}) == []
    assert pace.choose({}, {"a": 1}) == []
    assert works["a"].slices == 5


def test_what_was_owed_is_forgotten_with_the_work() -> None:
    """A debt does not fall on sessions that come later."""
    pace = LearningPace()
    assert pace.choose({"a": Work(9, 40)}, {"a": 1}) == []
    assert pace.choose({}, {"a": 1}) == []
    assert pace.choose({"b": Work(10, 100)}, {"b": 1}) == []


def test_few_sessions_share_no_pass() -> None:
    assert [together(sessions) for sessions in (0, 1, 4, 7, 8, 12, 64)] == [1, 1, 1, 1, 2, TOGETHER, TOGETHER]
