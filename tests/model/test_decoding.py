"""Decoding in place: the recurrences of ``Hope.step``, and bits that do not depend on company or place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.model.small import Parts, build, small_config
from torch import Tensor

from hope_model.config import HopeConfig, LevelConfig
from hope_model.decoding import DecodeRows, can_decode
from hope_model.decoding.torch_path import spans
from hope_model.decoding.weights import rms, sigmoid, silu, unit
from hope_model.hope import Hope
from hope_model.state import State

EXACT = 2e-4
"""Relative error of fp32 against ``Hope.step`` after many tokens."""


def config(write_rule: str = "sgd") -> HopeConfig:
    """Runs of 16 end inside chunks of 32; a gradient is summed twice a period of 128."""
    levels = (LevelConfig("fast", 32, write_rule), LevelConfig("slower", 128, write_rule))
    return small_config(Parts(), chunk=32, block=128, levels=levels, width=64, heads=4, cms_width=24)


def tokens_of(row: int, count: int) -> list[int]:
    return [(7 * place + place * place // 5 + 3 * row) % 31 for place in range(count)]


def stepped(model: Hope, state: State, tokens: Sequence[int]) -> tuple[Tensor, State]:
    logits = torch.empty(0)
    with torch.inference_mode():
        for token in tokens:
            logits, state = model.step(torch.tensor([token]), state)
    return logits[0], state


def decode(rows: DecodeRows, row: int, tokens: Sequence[int]) -> Tensor:
    logits = torch.empty(0)
    for token in tokens:
        logits = rows.step([row], [token])[0]
    return logits


def assert_close(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        if not tensor.is_floating_point():
            assert torch.equal(found[name], tensor), name
            continue
        scale = float(tensor.norm()) + 1e-3
        assert float((found[name] - tensor).norm()) < EXACT * scale, name


@pytest.mark.parametrize("write_rule", ["sgd", "momentum", "adam"])
def test_it_follows_the_models_own_step(path: str, write_rule: str) -> None:
    model = build(config(write_rule), torch.float32)
    rows, state, done = DecodeRows(model, 3, dtype=torch.float32, path=path), model.initial_state(1), 0
    rows.clear(1)
    for upto in (1, 15, 16, 17, 32, 33, 63, 127, 128, 150, 256, 257):
        part = tokens_of(0, upto)[done:]
        expected, state = stepped(model, state, part)
        torch.testing.assert_close(decode(rows, 1, part), expected, rtol=EXACT, atol=EXACT)
        assert_close(rows.state(1), state)
        done = upto


@pytest.mark.parametrize("begun", [1, 20, 32, 100, 128])
def test_a_row_is_taken_up_at_any_position(path: str, begun: int) -> None:
    model = build(config(), torch.float32)
    tokens = tokens_of(1, begun + 150)
    _, state = stepped(model, model.initial_state(1), tokens[:begun])
    rows = DecodeRows(model, 2, dtype=torch.float32, path=path)
    decode(rows, 0, tokens_of(4, 40))  # leaves whatever it leaves
    rows.load(0, state)
    assert_close(rows.state(0), state)
    decode(rows, 0, tokens[begun:])
    assert_close(rows.state(0), stepped(model, state, tokens[begun:])[1])


def test_tokens_that_may_not_teach_are_read_and_leave_the_levels_alone(path: str) -> None:
    """E29, with turns that end where a period does; bits of what is learned stay through such a turn."""
    model = build(config(), torch.float32)
    rows, state = DecodeRows(model, 1, dtype=torch.float32, path=path), model.initial_state(1)
    turns = [(True, 30), (False, 10), (True, 50), (False, 38), (True, 40)]
    flags = [teaches for teaches, count in turns for _ in range(count)]
    for place, (token, teaches) in enumerate(zip(tokens_of(0, len(flags)), flags, strict=True)):
        before = rows.state(0)
        rows.step([0], [token], () if teaches else (False,))
        with torch.inference_mode():
            _, state = model.step(torch.tensor([token]), state, torch.tensor([teaches]))
        after = rows.state(0)
        if not teaches:
            learned = [name for name in after if name.endswith((".delta", ".gradient"))]
            assert all(torch.equal(after[name], before[name]) for name in learned), place
    assert_close(rows.state(0), state)
    assert rows.counts(0)[1][2:] == (2, 0)


def test_bf16_operands_move_little(path: str) -> None:
    model = build(config(), torch.float32)
    tokens = tokens_of(0, 150)
    exact, rounded = (
        decode(DecodeRows(model, 1, dtype=kind, path=path), 0, tokens)
        for kind in (torch.float32, torch.bfloat16)
    )
    shift = (exact.log_softmax(-1).exp() * (exact.log_softmax(-1) - rounded.log_softmax(-1))).sum()
    assert 0 < float(shift) < 1e-3


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_rows_bits_depend_neither_on_company_nor_on_place(path: str, kind: torch.dtype) -> None:
    """Rows start one after the other, and each step leaves other rows out: nothing of that shows."""
    model = build(config(), torch.float32)
    rows, alone = DecodeRows(model, 7, dtype=kind, path=path), DecodeRows(model, 1, dtype=kind, path=path)
    queues = {row: tokens_of(row, 140 - 9 * row) for row in (0, 1, 2, 4, 6)}
    read: dict[int, int] = dict.fromkeys(queues, 0)
    last: dict[int, Tensor] = {}
    step = 0
    while any(read[row] < len(queues[row]) for row in queues):
        step += 1
        members = [
            row for row in queues if step > 11 * row and read[row] < len(queues[row]) and (step + row) % 5
        ]
        if not members:
            continue
        logits = rows.step(members, [queues[row][read[row]] for row in members])
        for row, own in zip(members, logits, strict=True):
            last[row], read[row] = own, read[row] + 1
    for row, tokens in queues.items():
        alone.clear(0)
        assert torch.equal(decode(alone, 0, tokens), last[row]), row
        expected, found = alone.state(0), rows.state(row)
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (row, name)


@pytest.mark.parametrize("width", [16, 64])
def test_many_rows_at_once_give_the_bits_of_each_alone(path: str, width: int) -> None:
    """Enough for vector instructions, whose rounding must not differ from that of what is left over."""
    model = build(small_config(width=width), torch.float32)
    rows, alone = DecodeRows(model, 40, path=path), DecodeRows(model, 40, path=path)
    for step in range(20):
        tokens = [(7 * step + 3 * row + row * step // 3) % 31 for row in range(40)]
        logits = rows.step(range(40), tokens)
        for row in range(0, 40, 7):
            assert torch.equal(alone.step([row], [tokens[row]])[0], logits[row]), (step, row)


@pytest.mark.parametrize("function", [sigmoid, silu, rms, unit], ids=lambda function: function.__name__)
def test_what_is_left_over_from_vectors_is_rounded_like_the_rest(
    function: Callable[[Tensor], Tensor],
) -> None:
    x = 3 * torch.randn(4000, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(function(x), torch.cat([function(row[None]) for row in x]))


def test_asking_for_a_state_changes_nothing(path: str) -> None:
    model = build(config(), torch.float32)
    asked, left = DecodeRows(model, 1, path=path), DecodeRows(model, 1, path=path)
    for token in tokens_of(2, 70):
        assert torch.equal(asked.step([0], [token]), left.step([0], [token]))
        asked.state(0)


def test_drift_is_that_of_the_state(path: str) -> None:
    """In a run, at its end, at the end of a chunk, and after writes of both levels."""
    model = build(config(), torch.float32)
    rows, done = DecodeRows(model, 2, path=path), 0
    for upto in (5, 16, 32, 40, 130):
        decode(rows, 1, tokens_of(0, upto)[done:])
        expected = {level: float(ratio) for level, ratio in model.drift(rows.state(1)).items()}
        assert rows.drift(1) == pytest.approx(expected, rel=1e-5)
        assert expected["phi"] > 0
        done = upto
    assert all(expected.values())


def test_rows_that_are_left_out_keep_every_bit(path: str) -> None:
    model = build(config(), torch.float32)
    rows = DecodeRows(model, 4, path=path)
    for row in range(4):
        decode(rows, row, tokens_of(row, 35 + row))
    before = [rows.state(row) for row in (1, 2)]
    for token in tokens_of(9, 40):
        rows.step([0, 3], [token, token])
    for row, state in zip((1, 2), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in rows.state(row).items())


def test_a_write_that_is_not_finite_is_left_out_and_counted(path: str) -> None:
    """Of the head whose memory holds a NaN; the others go on, and a row that is loaded anew is clean."""
    model = build(config(), torch.float32)
    rows, twin = DecodeRows(model, 2, path=path), DecodeRows(model, 2, path=path)
    for own in (rows, twin):
        decode(own, 0, tokens_of(0, 20))
    rows._blocks[1].phi.slabs["memory"][0, 1, 0, 0] = float("nan")
    rows._path.take_rows([0])
    for token in tokens_of(1, 5):
        logits = rows.step([0, 1], [token, token])
        assert bool(logits[0].isnan().all())
        assert torch.equal(logits[1], twin.step([0, 1], [token, token])[1])
    _, writes, refused, *_ = rows.counts(0)
    assert (writes[0], refused[0]) == (20, 3), "after three in a row nothing more is written"
    assert bool(rows.state(0)["layers.1.phi.projections_next"][0, 0].isfinite().all())
    rows.clear(0)
    twin.clear(0)
    assert torch.equal(decode(rows, 0, tokens_of(3, 40)), decode(twin, 0, tokens_of(3, 40)))


def test_whom_it_takes() -> None:
    assert can_decode(build(small_config(), torch.float32))
    assert not can_decode(build(small_config(), torch.float64))
    assert not can_decode(build(small_config(Parts(rule="gated")), torch.float32))
    assert not can_decode(build(small_config(Parts(aggregation="concat")), torch.float32))


@given(st.sets(st.integers(0, 200), min_size=1))
def test_groups_hold_every_row_once_and_few_others(chosen: set[int]) -> None:
    rows = sorted(chosen)
    groups = list(spans(rows))
    assert [row for group in groups for row in group] == rows
    assert all(group[-1] + 1 - group[0] <= 2 * len(group) for group in groups)


def test_rows_side_by_side_are_one_group() -> None:
    assert list(spans([3, 4, 5])) == [[3, 4, 5]]
    assert list(spans([0, 1, 50, 51])) == [[0, 1], [50, 51]]


def test_a_parked_row_is_left_alone_and_comes_back_anywhere(path: str) -> None:
    """Parked within runs, chunks and what a level keeps; both rows then go on, and the copy serves twice."""
    model = build(config(), torch.float32)
    rows = DecodeRows(model, 3, path=path)
    decode(rows, 0, tokens_of(0, 70))
    parked = rows.park(0)
    expected = decode(rows, 0, tokens_of(1, 75))
    for row in (1, 2):
        decode(rows, row, tokens_of(2, 21))
        rows.unpark(row, parked)
        assert torch.equal(decode(rows, row, tokens_of(1, 75)), expected)
        assert rows.counts(row) == rows.counts(0)
        for name, tensor in rows.state(0).items():
            assert torch.equal(rows.state(row)[name], tensor), name
