"""The runner of Hope-Attention models: what it says of a row, and that slots keep nothing of each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.attention.tiny import BLOCK, DELAY, PERIOD, USABLE, Text, alone, config, text, tiny_model
from tests.model.small import assert_identical, small_model
from torch import Tensor

from hope_model.attention.config import GRID
from hope_model.attention.write import Write
from hope_server.engine.attention_runner import PROMPT_TOKENS, AttentionRunner
from hope_server.engine.request import EngineConfig
from hope_server.engine.runner import Output, Reading, runner_for
from hope_server.engine.state_runner import StateRunner
from hope_server.engine.units import Unit
from hope_server.sessions.session import JournalRecord


def runner(slots: int = 2, *, learn: bool = True) -> AttentionRunner:
    return AttentionRunner(tiny_model(), slots=slots, learn=learn)


def records(it: Text, start: int = 0) -> list[JournalRecord]:
    """A record for each token: the finest cut that a journal can have."""
    pairs: Any = zip(it.tokens[start:], it.origins[start:], strict=True)
    return [JournalRecord(seq + 1, "step", origin, (token,)) for seq, (token, origin) in enumerate(pairs)]


def read(own: AttentionRunner, slot: int, it: Text, start: int = 0) -> list[Output]:
    """Every unit of a text's rest."""
    return [own.run(slot, unit) for unit in own.cut(records(it, start), position=start)]


def test_each_family_has_its_runner() -> None:
    own = runner_for(tiny_model(), EngineConfig(slots=3))
    assert isinstance(own, AttentionRunner)
    assert own.spec == tiny_model().state_spec
    assert isinstance(runner_for(small_model(), EngineConfig(slots=3)), StateRunner)
    read(own, 2, text(2 * PERIOD))
    assert own.counts(2).writes == (1,)
    still = runner_for(tiny_model(), EngineConfig(slots=3, learn=False))
    read(still, 2, text(2 * PERIOD))  # type: ignore[arg-type]
    assert still.counts(2).writes == (0,)


def test_a_unit_holds_what_the_rows_take() -> None:
    own = runner()
    units = own.cut(records(text(150)), position=50)
    assert [len(unit.tokens) for unit in units] == [GRID - 50, GRID, GRID, 8]
    assert own.step_unit(7, position=63, learn=True) == Unit("step", (7,), ("model",))
    assert own.step_unit(7, position=63, learn=False) == Unit("step", (7,), ("model",), (False,))


def test_outputs_tell_position_and_counts_boundary_and_norm() -> None:
    own, it = runner(), text(USABLE + 10)
    outputs = read(own, 1, it)
    assert [output.counts.position for output in outputs] == [*range(GRID, USABLE + 1, GRID), USABLE + 10]
    assert [output.counts.writes[0] for output in outputs] == [0, 1, 2, 3, 4, 4]
    assert [output.boundary for output in outputs] == [None] * 4 + [BLOCK, None]
    assert [output.update_norm is not None for output in outputs] == [False, True, True, True, True, False]
    assert all(output.finite for output in outputs)
    assert_identical(own.boundary(1), alone(tiny_model(), it).boundaries[0][BLOCK])
    assert_identical(own.live(1), alone(tiny_model(), it).rows.state(0))
    assert own.counts(1) == outputs[-1].counts
    assert own.drift(1)["fast"] > 0
    assert own.drift(0) == {"fast": 0.0}


def test_a_decode_answers_in_the_order_it_was_asked() -> None:
    own, lengths = runner(3), (70, 5, 130)
    for slot, length in enumerate(lengths):
        read(own, slot, text(length, slot))
    outputs = own.decode([2, 0, 1], [9, 8, 7])
    for output, slot, token in zip(outputs, (2, 0, 1), (9, 8, 7), strict=True):
        twin = runner(1)
        read(twin, 0, text(lengths[slot], slot))
        expected = twin.run(0, Unit("step", (token,), ("model",)))
        assert torch.equal(output.logits, expected.logits)
        assert output.counts == expected.counts


@pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(True, id="in one launch", marks=pytest.mark.compiler),
        pytest.param(False, id="launch by launch"),
    ],
)
def test_a_launch_reads_prompts_and_steps_as_each_alone(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(tiny_model(), "reader", tiny_model().reader if compiled else None)
    own, lengths = runner(4), (70, 5, 2 * PERIOD - 9, 200)
    assert own.prompt_tokens == (PROMPT_TOKENS if compiled else 1)
    units = [
        Unit("step", (9,), ("model",)),
        Unit("run", tuple(range(40)), ("user",) * 40),
        Unit("run", tuple(range(9)), ("user",) * 9),
        Unit("step", (7,), ("model",)),
    ]
    order = [2, 0, 3, 1]
    for slot in order:
        read(own, slot, text(lengths[slot], slot))
    found = own.launch([Reading(slot, units[slot], every=slot == 1) for slot in order])
    for output, slot in zip(found, order, strict=True):
        twin = runner(1)
        read(twin, 0, text(lengths[slot], slot))
        expected = (twin.run_every if slot == 1 else twin.run)(0, units[slot])
        assert isinstance(output, Output)
        assert torch.equal(output.logits, expected.logits)
        assert (output.counts, output.update_norm) == (expected.counts, expected.update_norm)
        assert_identical(own.live(slot), twin.live(0))
        step = Unit("step", (1,), ("model",))
        assert torch.equal(own.run(slot, step).logits, twin.run(0, step).logits)
        if expected.every is None:
            assert output.every is None
        else:
            assert output.every is not None
            assert torch.equal(output.every, expected.every)
    assert found[0].update_norm is not None, "the write became active in this launch"  # type: ignore[union-attr]


def test_a_row_that_fails_in_a_shared_launch_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own, twin = runner(), runner(1)
    for each in (own, twin):
        read(each, 0, text(PERIOD + 3))
    read(own, 1, text(2 * PERIOD - 1))

    def broken(_: object) -> None:
        raise RuntimeError("the write failed")

    monkeypatch.setattr(Write, "finish", broken)
    step = Unit("step", (3,), ("model",))
    well, sick = own.launch([Reading(0, step), Reading(1, step)])
    assert isinstance(sick, RuntimeError)
    assert isinstance(well, Output)
    assert torch.equal(well.logits, twin.run(0, step).logits)


def test_where_all_rows_of_a_launch_fail_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    own = runner()
    read(own, 1, text(2 * PERIOD - 1))

    def broken(_: object) -> None:
        raise RuntimeError("the write failed")

    monkeypatch.setattr(Write, "finish", broken)
    (sick,) = own.launch([Reading(1, Unit("step", (3,), ("model",)))])
    assert str(sick) == "the write failed"


def test_a_row_that_is_not_finite_says_so() -> None:
    own = runner()
    read(own, 0, text(30))
    read(own, 1, text(30))
    own._rows._slabs.cache.values[0][0] = float("nan")
    outputs = own.launch([Reading(slot, Unit("step", (3,), ("model",))) for slot in (0, 1)])
    assert [isinstance(output, Output) and output.finite for output in outputs] == [False, True]


def test_a_backlog_is_worked_off_slice_by_slice() -> None:
    own = runner()
    assert own.backlog(0) is None
    read(own, 0, text(PERIOD))
    backlog = own.backlog(0)
    assert backlog is not None
    assert backlog.tokens == DELAY
    for left in range(backlog.slices - 1, -1, -1):
        own.work([0])
        now = own.backlog(0)
        assert (0 if now is None else now.slices) == left
    assert own.backlog(1) is None


def test_a_loaded_row_goes_on() -> None:
    it = text(2 * BLOCK + 10)
    whole = alone(tiny_model(), it)
    own = runner()
    read(own, 1, text(USABLE, 5))
    own.load(1, whole.boundaries[0][BLOCK])
    assert own.counts(1).position == BLOCK
    outputs = read(own, 1, it, start=BLOCK)
    assert torch.equal(outputs[-1].logits, whole.logits[0])
    assert_identical(own.live(1), whole.rows.state(0))


@pytest.mark.parametrize("how", ["clear", "load"])
def test_a_boundary_of_a_session_that_failed_is_not_anothers(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It became usable in the launch that failed, so no output named it."""
    own = runner()
    read(own, 0, text(USABLE - 1))

    def broken(*_: object) -> None:
        raise RuntimeError("the launch failed")

    with monkeypatch.context() as patch:
        patch.setattr(type(tiny_model().backbone), "logits", broken)
        with pytest.raises(RuntimeError, match="the launch failed"):
            own.run(0, Unit("run", text(USABLE).tokens[-1:], ("user",)))
    if how == "clear":
        own.clear(0)
    else:
        own.load(0, alone(tiny_model(), text(USABLE, 1)).boundaries[0][BLOCK])
    assert own.run(0, Unit("run", (5,), ("user",))).boundary is None
    with pytest.raises(KeyError):
        own.boundary(0)


def test_the_state_is_declared() -> None:
    spec = tiny_model().state_spec
    assert [level.name for level in spec.learning_levels] == ["fast"]
    assert [level.period for level in spec.levels] == [PERIOD, None]
    memory = config().memory
    site = 4 * memory.levels[0].rank * 32
    assert spec.level_bytes("fast") == 2 * site
    rows: dict[str, Tensor] = runner().live(0)
    for tensor in spec.tensors:
        assert rows[tensor.name].shape == (1, *tensor.shape)
        assert rows[tensor.name].dtype == tensor.dtype
    assert rows.keys() == spec.by_name.keys()
