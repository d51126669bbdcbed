"""Sessions: their state and their next tokens are a function of what they read, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.model.attention.tiny import (
    BLOCK,
    DELAY,
    PERIOD,
    PREFIX,
    USABLE,
    WINDOW,
    Sessions,
    Text,
    alone,
    backbone_config,
    build,
    config,
    deltas_of,
    level,
    text,
    tiny_model,
    writes_of,
)
from tests.model.small import assert_identical, row_of

from hope_model.attention.checkpoint import attention_weights_sha256
from hope_model.attention.config import GRID
from hope_model.attention.model import HopeAttention
from hope_model.attention.rows import SessionRows
from hope_model.errors import StateError
from hope_model.state import State

LENGTHS = (USABLE + 70, 150, 2 * BLOCK)
"""Rows of one batch stand before, after and at a boundary."""


@cache
def expected(length: int, seed: int = 0, *, learn: bool = True) -> Sessions:
    """A session alone that has read a text in the plainest way."""
    return alone(tiny_model(), text(length, seed), learn=learn)


def same(found: Sessions, row: int, it: Sessions) -> None:
    """Equal boundaries, states and next tokens, bit for bit."""
    assert found.boundaries[row].keys() == it.boundaries[0].keys()
    for position, state in it.boundaries[0].items():
        assert_identical(found.boundaries[row][position], state)
    assert_identical(found.rows.state(row), it.rows.state(0))
    assert torch.equal(found.logits[row], it.logits[0])


ROW = st.integers(0, len(LENGTHS) - 1)
ACTIONS = st.one_of(
    st.tuples(st.just("read"), ROW, st.integers(1, 100)),
    st.tuples(st.just("decode"), ROW, st.integers(1, 12)),
    st.tuples(st.just("work"), ROW, st.integers(1, 8)),
    st.tuples(st.just("settle"), ROW, st.just(0)),
)


def act(sessions: Sessions, kind: str, row: int, count: int) -> None:
    """One action; those that the row has no tokens left for do nothing. Whoever can joins a decode."""
    if kind == "read":
        sessions.read(row, min(count, sessions.left(row)))
    elif kind == "settle":
        sessions.rows.settle(row)
    elif kind == "work":
        for _ in range(count):
            sessions.rows.work(range(row, len(LENGTHS)))
    else:
        for _ in range(min(count, sessions.left(row))):
            origin = sessions.origin(row)
            joined = [r for r in range(len(LENGTHS)) if sessions.left(r) and sessions.origin(r) == origin]
            sessions.decode(joined)


@settings(max_examples=9, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(st.lists(ACTIONS, max_size=40))
def test_no_bit_depends_on_how_tokens_arrive(actions: list[tuple[str, int, int]]) -> None:
    """Cut anywhere, in runs or steps, alone or in a batch with others at other positions, what is learned
    worked off early, in any order and company, or when its position comes.
    """
    sessions = Sessions(tiny_model(), *(text(length, seed) for seed, length in enumerate(LENGTHS)))
    for action in actions:
        act(sessions, *action)
    for row in range(len(LENGTHS)):
        sessions.read(row, sessions.left(row))
    for row, length in enumerate(LENGTHS):
        same(sessions, row, expected(length, row))


def test_no_bit_depends_on_how_tokens_arrive_one_by_one() -> None:
    """The plainest other way: every token a step, nothing worked off before it is due."""
    sessions = Sessions(tiny_model(), text(LENGTHS[0]))
    while sessions.left(0):
        sessions.decode([0])
    same(sessions, 0, expected(LENGTHS[0]))


@pytest.mark.compiler
def test_no_bit_depends_on_how_many_threads_there_are() -> None:
    """Of a model that is wide enough for torch to share its operations out."""
    wide = backbone_config(width=192, heads=6, head_width=32, mlp_width=512, vocab_size=4099)
    model = build(replace(config(level(rank=16)), backbone=wide))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(alone(model, text(USABLE + 70, 0)))
    assert any(deltas.any() for deltas in deltas_of(found[0].rows.state(0)).values())
    for it in found[1:]:
        same(it, 0, found[0])


def test_boundaries_are_given_once_usable() -> None:
    """`Sessions` checks the position; here that each came, and as the state was at the boundary."""
    it = expected(2 * BLOCK + DELAY)
    assert list(it.boundaries[0]) == [BLOCK, 2 * BLOCK]
    sessions = Sessions(tiny_model(), text(2 * BLOCK + DELAY))
    sessions.read(0, BLOCK)
    state = sessions.rows.state(0)
    sessions.read(0, DELAY - 1, settle=True)
    assert sessions.boundaries == [{}]
    sessions.read(0, 1)
    assert_identical(sessions.boundaries[0][BLOCK], state)
    assert_identical(it.boundaries[0][BLOCK], state)
    assert not torch.equal(
        sessions.rows.state(0)["layers.1.down_proj.delta"], state["layers.1.down_proj.delta"]
    )


PHASES = [USABLE + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 30, 2 * BLOCK + DELAY + 1, 3 * BLOCK + 5]
"""The token at which a boundary becomes usable still sees the old window; the next one is read alike."""


@pytest.mark.parametrize("length", PHASES)
def test_a_loaded_boundary_goes_on_as_the_session_did(length: int) -> None:
    """From the newest boundary that is usable at ``length``, in other cuts."""
    it = expected(length)
    position, state = list(it.boundaries[0].items())[-1]
    loaded = Sessions(tiny_model(), text(7), text(length))
    loaded.read(0, 7)
    loaded.rows.load(1, state)
    assert loaded.rows.position(1) == position
    while loaded.left(1):
        loaded.read(1, min(23, loaded.left(1)))
        loaded.rows.work([1])
    later = {boundary: row for boundary, row in it.boundaries[0].items() if boundary > position}
    assert loaded.boundaries[1].keys() == later.keys()
    for boundary, row in later.items():
        assert_identical(loaded.boundaries[1][boundary], row)
    assert_identical(loaded.rows.state(1), it.rows.state(0))
    assert torch.equal(loaded.logits[1], it.logits[0])


def test_plain_text_is_learned_alike_after_a_load() -> None:
    """How each token of the window teaches is part of the state."""
    length = BLOCK + 2 * PERIOD
    plain, words = (text(length).with_origins(origin) for origin in ("text", "user"))
    model = build(config(level(text_step_length=0.2)))
    it, other = alone(model, plain), alone(model, words)
    assert writes_of(it.rows, 0) == writes_of(other.rows, 0)
    assert not torch.equal(it.logits[0], other.logits[0])
    loaded = Sessions(model, plain)
    loaded.rows.load(0, it.boundaries[0][BLOCK])
    loaded.read(0, 2 * PERIOD)
    assert_identical(loaded.rows.state(0), it.rows.state(0))


@settings(max_examples=5)
@given(cuts=st.lists(st.integers(1, 90), max_size=12), settle=st.booleans())
def test_a_loaded_boundary_may_be_read_in_any_cut(cuts: list[int], settle: bool) -> None:
    length = 2 * BLOCK + 30
    it = expected(length)
    loaded = Sessions(tiny_model(), text(length))
    loaded.rows.load(0, it.boundaries[0][BLOCK])
    for cut in cuts:
        loaded.read(0, min(cut, loaded.left(0)), settle=settle)
    loaded.read(0, loaded.left(0))
    assert_identical(loaded.rows.state(0), it.rows.state(0))
    assert torch.equal(loaded.logits[0], it.logits[0])


def test_loading_changes_neither_the_state_nor_the_other_rows() -> None:
    model, state = tiny_model(), expected(USABLE).boundaries[0][BLOCK]
    sessions = Sessions(model, text(150, 1), text(USABLE), text(150, 2))
    for row in (0, 2):
        sessions.read(row, 150)
    before = [sessions.rows.state(row) for row in (0, 2)]
    given = {name: tensor.clone() for name, tensor in state.items()}
    sessions.rows.load(1, given)
    assert_identical(sessions.rows.state(1), state)
    sessions.read(1, 5)
    assert_identical(given, state)
    for row, kept in zip((0, 2), before, strict=True):
        assert_identical(sessions.rows.state(row), kept)


def test_the_initial_state_can_be_loaded() -> None:
    """It is a boundary as well: a session goes on from it as if it were new."""
    loaded = Sessions(tiny_model(), text(LENGTHS[0]))
    loaded.read(0, 100)
    loaded.rows.load(0, tiny_model().initial_state(1))
    loaded.read(0, LENGTHS[0])
    same(loaded, 0, expected(LENGTHS[0]))


@pytest.mark.parametrize(
    ("name", "value"), [("position", 100), ("prefix_tokens", PREFIX + 1), ("prefix_tokens", -1)]
)
def test_a_state_inside_a_block_is_refused(name: str, value: int) -> None:
    state = {key: tensor.clone() for key, tensor in expected(USABLE).boundaries[0][BLOCK].items()}
    state[name].fill_(value)
    with pytest.raises(StateError, match="expected a state at a boundary, found"):
        SessionRows(tiny_model(), 1).load(0, state)


@pytest.mark.parametrize(("tokens", "origins"), [(0, 0), (GRID + 1, GRID + 1), (5, 4)])
def test_a_run_that_does_not_fit_is_refused(tokens: int, origins: int) -> None:
    rows = SessionRows(tiny_model(), 1)
    with pytest.raises(StateError, match=f"expected 1 to {GRID} tokens with origins, found {tokens}"):
        rows.read(0, [1] * tokens, ["user"] * origins)
    rows.read(0, [1] * 10, ["user"] * 10)
    assert rows.room(0) == GRID - 10


def test_without_learning_nothing_is_learned() -> None:
    it = expected(LENGTHS[0], learn=False)
    state = it.rows.state(0)
    assert writes_of(it.rows, 0) == ((0,), (0,))
    assert not any(bool(delta.any()) for delta in deltas_of(state).values())
    assert it.rows.drift(0) == {"fast": 0.0}
    assert not torch.equal(it.logits[0], expected(LENGTHS[0]).logits[0])
    never = alone(build(config(teaches=("tool",))), text(LENGTHS[0]))
    assert torch.equal(never.logits[0], it.logits[0])
    found = never.rows.state(0)
    assert_identical(found, {**state, "window_teaches": found["window_teaches"], "good": found["good"]})


@torch.inference_mode()
def test_without_learning_a_session_answers_as_theta() -> None:
    """Before the first boundary, theta's own reading of the text; no prefix is pinned."""
    model, it = tiny_model(torch.float32), text(BLOCK).with_origins("user")
    sessions = alone(model, it, learn=False)
    theta = model.forward(torch.tensor([it.tokens]), window=WINDOW)[0, -1]
    torch.testing.assert_close(sessions.logits[0], theta, rtol=0, atol=1e-4)
    learned = alone(model, it).logits[0]
    assert float((learned - theta).abs().max()) > 0.05


def teaching(pattern: list[str]) -> Text:
    """A text whose tokens have the origins of ``pattern``, a run of GRID each; the first word that somebody
    says teaches nothing, so that of these "two" and "all" teach by themselves.
    """
    origins: list[str] = []
    for kind in pattern:
        run = ["model"] * GRID
        if kind == "all":
            run = ["user"] * GRID
        elif kind == "one":
            run[GRID // 2] = "tool"
        elif kind == "two":
            run[GRID // 2 : GRID // 2 + 2] = ["tool", "user"]
        elif kind == "first":
            run[0] = "user"
        origins += run
    return Text(text(len(origins)).tokens, tuple(origins))


def due(it: Text) -> int:
    """Periods that have become active and had something to teach."""
    says = [origin in ("user", "tool") for origin in it.origins]
    taught = [place for place in range(1, len(says)) if says[place - 1] and says[place]]
    ends = range(PERIOD, len(it) - DELAY + 1, PERIOD)
    return sum(any(end - PERIOD <= place < end for place in taught) for end in ends)


@settings(max_examples=10)
@given(st.lists(st.sampled_from(["none", "all", "one", "two", "first"]), min_size=1, max_size=7))
def test_every_period_with_something_to_learn_counts_once(pattern: list[str]) -> None:
    it = teaching(pattern)
    late, early = alone(tiny_model(), it, settle=False), alone(tiny_model(), it)
    for sessions in (late, early):
        writes, refused = writes_of(sessions.rows, 0)
        assert writes[0] + refused[0] == due(it)
        assert refused[0] == 0
        learned = any(bool(delta.any()) for delta in deltas_of(sessions.rows.state(0)).values())
        assert learned == (due(it) > 0)


def test_every_level_writes_in_its_own_period() -> None:
    levels = (
        level(first_layer=2),
        level(name="slower", period=128, first_layer=1, last_layer=1, projections=("up_proj", "gate_proj")),
    )
    model = build(config(*levels, window=192, prefix=20))
    sessions = alone(model, text(USABLE + 130))
    writes, refused = writes_of(sessions.rows, 0)
    assert (writes, refused) == (((USABLE + 130 - DELAY) // 64, (USABLE + 130 - DELAY) // 128), (0, 0))
    late = alone(model, text(USABLE + 130), settle=False)
    same(late, 0, sessions)
    loaded = Sessions(model, text(USABLE + 130))
    loaded.rows.load(0, sessions.boundaries[0][BLOCK])
    loaded.read(0, 130 + DELAY)
    assert_identical(loaded.rows.state(0), sessions.rows.state(0))
    assert sessions.rows.drift(0).keys() == {"fast", "slower"}
    assert all(ratio > 0 for ratio in sessions.rows.drift(0).values())


def test_levels_whose_periods_do_not_divide_each_other_all_write() -> None:
    levels = (level(period=128, first_layer=2), level(name="odd", period=192, last_layer=1))
    model = build(config(*levels, window=256, block=384))
    sessions = alone(model, text(384 + 3 * DELAY))
    assert writes_of(sessions.rows, 0) == ((4, 2), (0, 0))
    same(alone(model, text(384 + 3 * DELAY), settle=False), 0, sessions)


@torch.inference_mode()
def plant(sessions: Sessions, row: int, *tensors: torch.Tensor) -> None:
    for tensor in tensors:
        tensor[row] = float("nan")


PLANTS: dict[str, Callable[[Any], list[torch.Tensor]]] = {
    "keys": lambda rows: list(rows._slabs.cache.keys),
    "values": lambda rows: list(rows._slabs.cache.values),
    "deltas": lambda rows: list(rows._slabs.active.values()),
    "everything": lambda rows: [
        *rows._slabs.cache.keys,
        *rows._slabs.cache.values,
        rows._slabs.cache.hidden,
        rows._slabs.cache.outputs,
        *rows._slabs.active.values(),
        *(tensor for tensor in rows._slabs.state.values() if tensor.is_floating_point()),
    ],
}


@pytest.mark.parametrize("where", PLANTS)
def test_nan_in_one_row_reaches_no_other(where: str) -> None:
    """Over a write and a boundary, decoding in one batch."""
    lengths = (BLOCK - 20, BLOCK - 30, BLOCK - 10)
    texts = [text(length + 30, seed).with_origins("user") for seed, length in enumerate(lengths)]
    sessions = Sessions(tiny_model(), *texts)
    for row, length in enumerate(lengths):
        sessions.read(row, length, settle=True)
    plant(sessions, 1, *PLANTS[where](sessions.rows))
    for _ in range(30):
        sessions.decode([0, 1, 2])
    assert bool(sessions.logits[1].isnan().all())
    for row in (0, 2):
        it = alone(tiny_model(), texts[row])
        same(sessions, row, it)
        sessions.rows.settle(row)


def test_a_write_that_is_not_finite_is_refused() -> None:
    """It is counted, and the memory stays as it was; the session goes on."""
    it = text(3 * PERIOD).with_origins("user")
    sessions, twin = (Sessions(tiny_model(), it) for _ in range(2))
    for one in (sessions, twin):
        one.read(0, PERIOD)
    sessions.read(0, PERIOD - 1)
    plant(sessions, 0, sessions.rows._slabs.cache.hidden)
    sessions.read(0, 1)
    first = sessions.rows.state(0)
    assert writes_of(sessions.rows, 0) == ((1,), (0,))
    assert bool(first["layers.1.down_proj.delta"].any())
    sessions.read(0, PERIOD)
    after = sessions.rows.state(0)
    assert writes_of(sessions.rows, 0) == ((1,), (1,))
    assert_identical(deltas_of(after), deltas_of(first))
    assert bool(sessions.logits[0].isfinite().all())


def test_what_a_session_holds_is_bounded() -> None:
    """The Fisher norm of each level, also where every step would go beyond."""
    model = build(config(level(round_length=5.0, max_norm=0.3, retention=0.01)))
    sessions = Sessions(model, text(USABLE))
    largest = 0.0
    while sessions.left(0):
        sessions.read(0, GRID)
        state = sessions.rows.state(0)
        deltas = {name.removesuffix(".delta"): delta for name, delta in deltas_of(state).items()}
        norm = float(model.memory.squared_norm(deltas, list(deltas))) ** 0.5
        assert norm <= 0.3 * (1 + 1e-4)
        largest = max(largest, norm)
    assert largest > 0.29, "the bound was never reached"


def test_rounds_of_no_length_leave_theta() -> None:
    sessions = alone(build(config(level(round_length=1e-30))), text(USABLE))
    assert sessions.rows.counters([0])[0].writes == (USABLE // PERIOD - 1,)
    theta = expected(USABLE, learn=False)
    torch.testing.assert_close(sessions.logits[0], theta.logits[0], rtol=0, atol=1e-4)


def test_theta_stays_as_it_is() -> None:
    model = build(config())
    before = attention_weights_sha256(model)
    sessions = Sessions(model, text(USABLE), text(USABLE, 1))
    for row in (0, 1):
        sessions.read(row, USABLE)
    assert sessions.rows.counters([0])[0].writes == sessions.rows.counters([1])[0].writes == (4,)
    assert attention_weights_sha256(model) == before
    assert attention_weights_sha256(model, learn=False) != before


def test_a_cleared_row_is_a_new_one() -> None:
    """Nothing of the session before is left, not even where nobody looks."""
    sessions = Sessions(tiny_model(), text(LENGTHS[0]), text(90, 1))
    plant(sessions, 0, *PLANTS["everything"](sessions.rows))
    sessions.rows.clear(0)
    sessions.read(0, BLOCK + 70)
    plant(sessions, 0, *PLANTS["everything"](sessions.rows))
    sessions.read(1, 90)
    neighbour, cache = sessions.rows.state(1), sessions.rows._slabs.cache
    cache.rows[0].read = cache.capacity
    sessions.rows.clear(0)
    left = [*PLANTS["everything"](sessions.rows), *sessions.rows._slabs.state.values()]
    assert not any(bool(tensor[0].any()) for tensor in left)
    assert (sessions.rows.position(0), sessions.rows.slices(0)) == (0, 0)
    assert sessions.rows.take_update_norms(0) is None
    assert_identical(sessions.rows.state(1), neighbour)
    sessions.boundaries[0].clear()
    sessions.read(0, LENGTHS[0])
    same(sessions, 0, expected(LENGTHS[0]))


@torch.inference_mode()
def test_a_branch_leaves_the_session_alone() -> None:
    """Copies of the cache go on by themselves, and read as the session would."""
    model, length = tiny_model(), BLOCK + 20
    it = text(length + 30).with_origins("system", "user")
    sessions = Sessions(model, text(9), it)
    sessions.read(1, length, settle=True)
    before = sessions.rows.state(1)
    cache, deltas = sessions.rows.branch(1, 2)
    other = torch.tensor([it.tokens[length : length + 30], text(30, 5).tokens])
    branched = model.backbone.logits(model.read(cache, [0, 1], other, _twice(deltas))[:, -1]).float()
    assert_identical(sessions.rows.state(1), before)
    sessions.read(1, 30)
    assert torch.equal(branched[0], sessions.logits[1])
    assert not torch.equal(branched[1], branched[0])
    plain = Sessions(model, it)
    plain.read(0, length + 30)
    assert torch.equal(plain.logits[0], sessions.logits[1])
    assert Sessions(model, it).rows.branch(0, 1)[1] is None


def _twice(deltas: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    return None if deltas is None else {name: delta.expand(2, -1, -1) for name, delta in deltas.items()}


def test_work_that_is_begun_has_a_deadline() -> None:
    """It is never behind, and nothing that was settled comes back."""
    sessions = Sessions(tiny_model(), text(USABLE + GRID))
    begun = 0
    while sessions.left(0):
        sessions.decode([0])
        if sessions.rows.slices(0):
            assert 0 < sessions.rows.deadline(0) <= DELAY
            begun += 1
            sessions.rows.settle(0)
            assert sessions.rows.slices(0) == 0
            sessions.rows.work([0])
    # A write at every period and, at the boundary, the encoding of the window as well, which is offered the
    # tokens read meanwhile when they fill a run.
    assert begun == (USABLE + GRID) // PERIOD
    assert SessionRows(tiny_model(), 1).deadline(0) == BLOCK


def test_the_norm_of_a_write_is_told_once() -> None:
    sessions = Sessions(tiny_model(), text(3 * PERIOD))
    sessions.read(0, PERIOD + DELAY - 1)
    assert sessions.rows.take_update_norms(0) is None
    sessions.read(0, 1)
    state = sessions.rows.state(0)
    norms = sessions.rows.take_update_norms(0)
    total = torch.stack([delta.norm() for delta in deltas_of(state).values()]).norm()
    assert norms is not None
    assert norms.keys() == {"fast"}
    assert norms["fast"] == pytest.approx(float(total), rel=1e-5)
    assert sessions.rows.take_update_norms(0) is None


def test_leading_tokens_are_pinned_up_to_the_limit() -> None:
    def prefix(it: Text) -> list[int]:
        state: State = alone(tiny_model(), it).rows.state(0)
        return [int(token) for token in state["prefix"][0, : int(state["prefix_tokens"])]]

    plain = text(PREFIX + 30)
    assert prefix(plain) == list(plain.tokens[:20])
    assert prefix(plain.with_origins("system")) == list(plain.tokens[:PREFIX])
    assert prefix(plain.with_origins("user")) == []
    assert prefix(plain.with_origins("template", "user", "system")) == list(plain.tokens[:1])


def test_the_state_of_several_rows_is_each_ones_own() -> None:
    model: HopeAttention = tiny_model()
    assert all(tensor.shape[0] == 2 for tensor in model.initial_state(2).values())
    sessions = Sessions(model, text(100), text(150, 1))
    for row in (0, 1):
        sessions.read(row, len(sessions.texts[row]))
        assert_identical(sessions.rows.state(row), expected(len(sessions.texts[row]), row).rows.state(0))
    assert_identical(row_of(sessions.rows.state(0), 0), sessions.rows.state(0))
