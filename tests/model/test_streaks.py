"""Refused writes in a row: how they are counted, and what a row does that learns no more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.model.small import (
    EACH_RULE,
    READERS,
    Parts,
    Reader,
    assert_close,
    assert_identical,
    by_rows,
    by_steps,
    clone,
    in_one_call,
    join,
    random_tokens,
    row_of,
    small_model,
    state_at,
    with_nan,
)

from hope_model.hope import Hope
from hope_model.rules.base import MemoryRule
from hope_model.state import State
from hope_model.streaks import (
    COUNTER_NAMES,
    LIMIT,
    Frozen,
    Outcome,
    counted,
    counted_step,
    counter_specs,
)

BLOCK = 4
PAIRS = {"keys-0", "values-0", "seen"}
READ_LAST = {
    "gated": set[str](),
    "retnet": {"seen"},
    "rwkv7": {"last_input"},
    "samba": {"window"} | PAIRS,
    "transformer": PAIRS,
}
"""By rule, state of φ that is no memory; of the others the convolution's window."""


@pytest.fixture(scope="module", params=EACH_RULE, ids=str)
def model(request: pytest.FixtureRequest) -> Hope:
    return small_model(request.param)


def start(rows: int = 1, levels: int = 1) -> State:
    return {spec.name: torch.zeros((rows, *spec.shape), dtype=spec.dtype) for spec in counter_specs(levels)}


def outcome(*rows: str) -> Outcome:
    """Writes in order: ``+`` applied, ``-`` refused, ``.`` not due."""
    applied = torch.tensor([[write == "+" for write in row] for row in rows]).reshape(len(rows), -1)
    due = torch.tensor([[write != "." for write in row] for row in rows]).reshape(len(rows), -1)
    return Outcome(applied.bool(), due.bool())


def read(writes: str, before: State | None = None) -> State:
    """One level of period 1 reads a run."""
    return counted(before or start(), [outcome(writes)], tokens=len(writes), block=BLOCK)


def frozen(state: State, row: int) -> State:
    """A copy of which one row learns no more."""
    marked = clone(state)
    marked["frozen"][row] = int(Frozen.JOURNAL)
    return marked


@given(st.lists(st.text("+-.", min_size=1, max_size=5), min_size=1, max_size=5))
def test_a_streak_is_followed_over_any_cut_of_the_writes(runs: list[str]) -> None:
    state, streak, writes, refused, ended = start(), 0, 0, 0, False
    for run in runs:
        state = read(run, state)
        for write in run if not ended else "":
            streak = streak + (write == "-") if write != "+" else 0
            writes, refused = writes + (write == "+"), refused + (write == "-")
            ended = ended or streak >= LIMIT
        assert [int(state[name]) for name in ("writes", "refused", "streaks")] == [writes, refused, streak]
        assert int(state["frozen"]) == (Frozen.NON_FINITE if ended else Frozen.NO)
        if ended:
            break


@pytest.mark.parametrize(
    ("runs", "good"),
    [
        (["++++"], 4),
        (["+++", "+"], 4),
        (["++", "++", "++"], 4),
        (["+++++++++"], 8),
        (["+++-"], 0),
        (["++++", "+++-", "+"], 4),
        (["++++", "+++-", "++++"], 12),
        (["++++", "-+++"], 8),
        (["++++", "-+++++"], 4),
    ],
)
def test_a_boundary_is_good_when_no_streak_is_open_at_it(runs: list[str], good: int) -> None:
    """Within a run nobody looks where a refused write stood: then only its end can be good."""
    state = start()
    for run in runs:
        state = read(run, state)
    assert int(state["good"]) == good


@given(st.lists(st.tuples(*[st.sampled_from("+-.")] * 3), min_size=1, max_size=9))
def test_a_step_counts_as_a_run_of_one(tokens: list[tuple[str, ...]]) -> None:
    """Three levels of one row."""
    stepped = run = start(1, 3)
    for writes in tokens:
        stepped = counted_step(stepped, outcome("".join(writes)), block=BLOCK)
        run = counted(run, [outcome(write) for write in writes], tokens=1, block=BLOCK)
        assert_identical(stepped, run)


def test_one_level_is_enough_and_each_has_a_streak_of_its_own() -> None:
    first = outcome("+--+--", "------", "++++++")
    second = outcome("--+--", "+++++", "+++++")
    state = counted(start(3, 2), [first, second], tokens=6, block=BLOCK)
    assert state["streaks"].tolist() == [[2, 2], [6, 0], [0, 0]]
    assert state["refused"].tolist() == [[4, 4], [6, 0], [0, 0]]
    assert state["frozen"].tolist() == [Frozen.NO, Frozen.NON_FINITE, Frozen.NO]


def test_of_a_frozen_row_only_tokens_are_counted() -> None:
    before = start() | {"frozen": torch.tensor([int(Frozen.CANARY)]), "good": torch.tensor([8])}
    after = read("+-+-", before)
    assert {name: after[name].tolist() for name in COUNTER_NAMES} == {
        "position": [4],
        "writes": [[0]],
        "refused": [[0]],
        "streaks": [[0]],
        "frozen": [Frozen.CANARY],
        "good": [8],
    }


@pytest.mark.parametrize("reader", [*READERS, by_rows])
def test_a_frozen_row_is_read_and_not_written(model: Hope, reader: Reader) -> None:
    """One row alone at its phase, and one beside another."""
    positions = (5, 5, 7)
    tokens, state = random_tokens(3, 12), join([state_at(model, 1, position) for position in positions])
    expected, expected_state = reader(model, tokens, state)
    logits, after = reader(model, tokens, frozen(state, 1))
    for row in (0, 2):
        assert torch.equal(logits[row], expected[row])
        assert_identical(row_of(after, row), row_of(expected_state, row))
    own = {name: name.rsplit(".", 1)[-1] for name in state if name not in COUNTER_NAMES}
    held = [name for name, last in own.items() if not last.startswith(MemoryRule.CONTEXT)]
    assert held
    assert [name for name in held if not torch.equal(after[name][1], state[name][1])] == []
    assert int(after["position"][1]) == positions[1] + 12
    assert torch.equal(after["writes"][1], state["writes"][1])
    assert not torch.isclose(logits[1, -1], expected[1, -1]).all()


def test_what_was_read_last_moves_on_in_a_frozen_row(model: Hope) -> None:
    state = frozen(state_at(model, 1, 5), 0)
    _, after = model(random_tokens(1, 12), state)
    moved = {name.rsplit(".", 1)[-1] for name in state if not torch.equal(after[name], state[name])}
    assert moved == {"position", "last_key"} | READ_LAST.get(model.config.rule, {"window"})


def test_a_frozen_row_answers_the_same_for_any_split_of_its_tokens(model: Hope) -> None:
    """Among them one with the chunk's projections still pending."""
    tokens, state = random_tokens(2, 12), frozen(state_at(model, 2, 13), 0)
    expected, _ = by_steps(model, tokens, state)
    assert_close(in_one_call(model, tokens, state)[0], expected)


def test_a_row_freezes_in_the_run_of_its_third_refused_write() -> None:
    model = small_model(Parts())
    state = with_nan(state_at(model, 2, 16), 1, "layers.0.phi.memory")
    for tokens in range(1, 5):
        _, state = model.step(random_tokens(2, 1, seed=tokens)[:, 0], state)
        assert state["frozen"].tolist() == [0, Frozen.NON_FINITE if tokens >= LIMIT else 0]
    assert state["streaks"][:, 0].tolist() == [0, LIMIT]
    assert state["refused"][:, 0].tolist() == [0, LIMIT]
    assert state["good"].tolist() == [16, 16]
