"""What every φ rule, write rule and aggregation owes: the registries, all pairs of their entries, in fp64."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.small import (
    COMBINATIONS,
    EACH_RULE,
    READERS,
    Parts,
    Reader,
    assert_close,
    assert_identical,
    assert_same_state,
    build,
    by_rows,
    by_steps,
    clone,
    due_writes,
    in_one_call,
    join,
    random_tokens,
    row_of,
    small_config,
    small_model,
    state_at,
    with_nan,
)

from hope_model.aggregations import AGGREGATIONS
from hope_model.block import HopeBlock
from hope_model.checkpoint import slow_weights_sha256
from hope_model.config import LevelConfig
from hope_model.errors import StateError
from hope_model.hope import Hope
from hope_model.rules import RULES
from hope_model.streaks import LIMIT, Frozen
from hope_model.write_rules import WRITE_RULES

TOKENS = 37


@pytest.fixture(scope="module", params=COMBINATIONS, ids=str)
def model(request: pytest.FixtureRequest) -> Hope:
    parts: Parts = request.param
    return small_model(parts)


IN_PLACE_TOO = pytest.mark.parametrize("read", [*READERS, by_rows], indirect=True)


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Reader:
    reader: Reader = request.param
    return reader


def test_every_rule_and_every_two_parts_of_a_level_meet_in_a_model() -> None:
    assert {parts.rule for parts in COMBINATIONS} == set(RULES)
    met = {(parts.write_rule, parts.aggregation) for parts in COMBINATIONS}
    assert met == set(product(WRITE_RULES, AGGREGATIONS))


@pytest.mark.parametrize("advance", [by_steps, by_rows])
@pytest.mark.parametrize("start", [0, 5])
def test_token_by_token_equals_one_call(model: Hope, start: int, advance: Reader) -> None:
    """The convolution's window is state (§3.1 row 1), and a state need not be zero to start from (row 15).

    ``by_rows`` goes in place, by slot, through the operations that have kernels.
    """
    state, tokens = state_at(model, 2, start), random_tokens(2, TOKENS)
    logits, after = advance(model, tokens, state)
    expected, expected_state = model(tokens, state)
    assert_close(logits, expected)
    assert_same_state(after, expected_state)


def test_a_padded_row_changes_no_row(model: Hope) -> None:
    """Beside it the others read what they read without it."""
    slab, tokens = state_at(model, 4, 7), random_tokens(3, 1)[:, 0]
    alone, padded = clone(slab), clone(slab)
    with torch.no_grad():
        expected = model.step_rows(tokens[[0, 2]], alone, torch.tensor([3, 1]))
        logits = model.step_rows(tokens, padded, torch.tensor([3, -1, 1]))
    assert_close(logits[[0, 2]], expected)
    assert_same_state(padded, alone)
    assert all(torch.equal(padded[name][[0, 2]], tensor[[0, 2]]) for name, tensor in slab.items())


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, TOKENS - 1), max_size=8))
def test_any_split_equals_one_call(model: Hope, cuts: set[int]) -> None:
    """No call flushes what is unfinished (§3.1 row 2); a part of one token goes through ``step``."""
    tokens, state = random_tokens(1, TOKENS), model.initial_state(1)
    expected, expected_state = model(tokens, state)
    logits = []
    for part in tokens.tensor_split(sorted(cuts), dim=1):
        read = by_steps if part.shape[1] == 1 else in_one_call
        out, state = read(model, part, state)
        logits.append(out)
    assert_close(torch.cat(logits, dim=1), expected)
    assert_same_state(state, expected_state)


def test_two_calls_with_carried_state_equal_one(model: Hope) -> None:
    """Memories go on where the first call left them, not at ``W_0`` (§3.1 row 12)."""
    tokens, state = random_tokens(2, 32), model.initial_state(2)
    _, middle = model(tokens[:, :19], state)
    logits, after = model(tokens[:, 19:], middle)
    expected, expected_state = model(tokens, state)
    assert_close(logits, expected[:, 19:])
    assert_same_state(after, expected_state)


def test_a_call_shorter_than_the_chunk_still_counts_towards_it(model: Hope) -> None:
    """The phase survives calls shorter than every period (§3.1 row 11)."""
    tokens, state = random_tokens(1, 16), model.initial_state(1)
    for part in tokens.tensor_split([5, 10, 15], dim=1):
        _, state = model(part, state)
    assert state["writes"].tolist() == [due_writes(model, 16)]


def test_a_level_is_written_once_a_period(model: Hope, read: Reader) -> None:
    """Writes are ``tokens // period`` however the tokens came (§3.1 row 2)."""
    _, state = read(model, random_tokens(2, TOKENS), model.initial_state(2))
    assert state["position"].tolist() == [TOKENS] * 2
    assert state["writes"].tolist() == [due_writes(model, TOKENS)] * 2
    assert not state["refused"].any()


def test_plain_decoding_changes_every_level(model: Hope) -> None:
    """A session learns from what it writes without anybody asking for it (§3.1 row 3)."""
    for level in model.state_spec.learning_levels:
        assert level.period is not None
        before = state_at(model, 1, level.period - 1)
        _, after = model.step(random_tokens(1, 1)[0], before)
        assert not torch.equal(model.drift(after)[level.name], model.drift(before)[level.name])


def test_a_batch_equals_its_rows_alone(model: Hope, read: Reader) -> None:
    """Every row has weights of its own (§3.1 row 6)."""
    state, tokens = state_at(model, 3, 5), random_tokens(3, 20)
    logits, after = read(model, tokens, state)
    for row in range(3):
        expected, expected_state = read(model, tokens[row : row + 1], row_of(state, row))
        assert_close(logits[row : row + 1], expected)
        assert_same_state(row_of(after, row), expected_state)


def test_rows_at_different_phases_share_a_call(model: Hope, read: Reader) -> None:
    """Positions are per row, not per batch (§3.1 row 7)."""
    singles = [state_at(model, 1, position) for position in (0, 3, 8, 13, 24, 3)]
    tokens = random_tokens(len(singles), 11)
    logits, after = read(model, tokens, join(singles))
    for row, state in enumerate(singles):
        expected, expected_state = read(model, tokens[row : row + 1], state)
        assert_close(logits[row : row + 1], expected)
        assert_same_state(row_of(after, row), expected_state)


def test_two_sessions_do_not_see_each_other(model: Hope) -> None:
    """A session's turns give the same bits when another's lie between them (§3.1 row 16)."""
    mine, yours = random_tokens(1, 20, seed=1), random_tokens(1, 20, seed=2)
    expected, middle = model(mine[:, :9], model.initial_state(1))
    expected_rest, expected_state = model(mine[:, 9:], middle)
    logits, state = model(mine[:, :9], model.initial_state(1))
    model(yours, model.initial_state(1))
    rest, state = model(mine[:, 9:], state)
    assert torch.equal(logits, expected)
    assert torch.equal(rest, expected_rest)
    assert_identical(state, expected_state)


@pytest.mark.parametrize("tokens", [1, 16, 21])
def test_the_state_is_what_its_spec_declares(model: Hope, read: Reader, tokens: int) -> None:
    """Names, shapes, types; and no two tensors share storage (§3.1 row 10)."""
    _, state = read(model, random_tokens(2, tokens), model.initial_state(2))
    expected = model.state_spec.zeros(2, dtype=torch.float64)
    assert {name: (t.shape, t.dtype) for name, t in state.items()} == {
        name: (t.shape, t.dtype) for name, t in expected.items()
    }
    assert len({t.untyped_storage().data_ptr() for t in state.values()}) == len(state)


def test_rows_at_different_phases_share_no_storage(model: Hope) -> None:
    state = join([state_at(model, 1, 0), state_at(model, 1, 3)])
    _, after = model(random_tokens(2, 8), state)
    assert len({t.untyped_storage().data_ptr() for t in after.values()}) == len(after)


@pytest.mark.parametrize("positions", [(5, 5), (0, 7)])
def test_the_state_that_was_given_is_not_written(
    model: Hope, read: Reader, positions: tuple[int, int]
) -> None:
    state = join([state_at(model, 1, position) for position in positions])
    before = clone(state)
    read(model, random_tokens(2, 20), state)
    assert_identical(state, before)


@IN_PLACE_TOO
@pytest.mark.parametrize("positions", [(5, 5, 5), (5, 0, 7)])
def test_a_row_of_nan_leaves_its_neighbours_bit_identical(
    model: Hope, read: Reader, positions: tuple[int, ...]
) -> None:
    tokens, state = random_tokens(3, 20), join([state_at(model, 1, position) for position in positions])
    expected, expected_state = read(model, tokens, state)
    logits, after = read(model, tokens, with_nan(state, 1))
    for row in (0, 2):
        assert torch.equal(logits[row], expected[row])
        assert_identical(row_of(after, row), row_of(expected_state, row))


@IN_PLACE_TOO
def test_writes_of_a_row_of_nan_are_refused_and_counted(model: Hope, read: Reader) -> None:
    _, after = read(model, random_tokens(3, 16), with_nan(model.initial_state(3), 1))
    nothing, everything = [0] * len(due_writes(model, 16)), due_writes(model, 16)
    assert after["writes"].tolist() == [everything, nothing, everything]
    freezes = max(everything) >= LIMIT
    assert after["frozen"].tolist() == [Frozen.NO, Frozen.NON_FINITE if freezes else Frozen.NO, Frozen.NO]
    early = freezes and read is not in_one_call
    assert after["refused"].tolist() == [nothing, [LIMIT, *nothing[1:]] if early else everything, nothing]
    assert torch.equal(after["streaks"], after["refused"])


@IN_PLACE_TOO
@pytest.mark.parametrize("write_rule", sorted(WRITE_RULES))
def test_a_refused_write_leaves_the_memory_as_it_was(write_rule: str, read: Reader) -> None:
    """A gradient that is not finite costs its own period; nothing of it stays, and the next is written."""
    model = small_model(Parts(write_rule=write_rule))
    state = with_nan(state_at(model, 2, 13), 1, "layers.0.fast.gradient")
    _, after = read(model, random_tokens(2, 3), state)
    level = [level.name for level in model.state_spec.learning_levels].index("fast")
    assert after["refused"][:, level].tolist() == [0, 1]
    assert torch.equal(after["layers.0.fast.delta"][1], state["layers.0.fast.delta"][1])
    _, later = read(model, random_tokens(2, 8), after)
    assert later["refused"][:, level].tolist() == [0, 1]
    assert all(bool(tensor.isfinite().all()) for tensor in later.values())


def test_each_layer_has_its_own_state(model: Hope) -> None:
    """What one layer remembers reaches that layer and those above it, no other (§3.1 row 9)."""
    tokens, state = random_tokens(1, 2), state_at(model, 1, 5)
    own = {name for name in state if name.startswith("layers.1.") and state[name].is_floating_point()}
    changed = {name: tensor + 0.1 if name in own else tensor for name, tensor in state.items()}
    (_, after), (_, other) = model(tokens, state), model(tokens, changed)
    moved = {name for name in after if not torch.equal(after[name], other[name])}
    assert moved <= own
    block = model.blocks[1]
    assert isinstance(block, HopeBlock)
    learned = {f"layers.1.phi.{name}" for names in block.phi.drift_tensors().values() for name in names}
    assert moved >= learned | {f"layers.1.{level.name}.delta" for level in model.config.levels}


def test_slow_weights_stay_as_they_are(model: Hope) -> None:
    """Whatever a session reads, nothing is learned outside its state (§3.1 row 16)."""
    before, state = slow_weights_sha256(model), model.initial_state(1)
    for _ in range(2):
        _, state = model.block_pass(random_tokens(1, 16), state)
        _, state = by_steps(model, random_tokens(1, 16), state)
    model.drift(state)
    assert slow_weights_sha256(model) == before


def test_prefill_gives_the_last_logits_of_forward(model: Hope) -> None:
    tokens, state = random_tokens(2, 11), state_at(model, 2, 5)
    logits, after = model.prefill(tokens, state)
    expected, expected_state = model(tokens, state)
    assert_close(logits, expected[:, -1])
    assert_identical(after, expected_state)


@pytest.mark.parametrize("position", [0, 16])
def test_a_block_pass_equals_one_call_over_its_block(model: Hope, position: int) -> None:
    tokens, state = random_tokens(1, 16), state_at(model, 1, position)
    logits, after = model.block_pass(tokens, state)
    expected, expected_state = model(tokens, state)
    assert_close(logits, expected[:, -1])
    assert_identical(after, expected_state)
    assert after["position"].tolist() == [position + 16]


@pytest.mark.parametrize(
    ("shape", "position"), [((1, 15), 0), ((1, 17), 0), ((2, 16), 0), ((16,), 0), ((1, 16), 8), ((1, 16), 15)]
)
def test_a_block_pass_has_one_shape_and_starts_at_a_boundary(shape: tuple[int, ...], position: int) -> None:
    model = small_model()
    with pytest.raises(StateError, match=r"expected tokens \[1, 16\] at a boundary"):
        model.block_pass(torch.zeros(shape, dtype=torch.int64), state_at(model, shape[0], position))


@pytest.mark.parametrize("shape", [(2, 0), (2,), (2, 3, 1)])
def test_a_run_of_tokens_is_a_matrix_with_a_token_at_least(shape: tuple[int, ...]) -> None:
    model = small_model()
    with pytest.raises(StateError, match=r"expected \[B, T\] with T >= 1"):
        model(torch.zeros(shape, dtype=torch.int64), model.initial_state(2))


@pytest.mark.parametrize("parts", EACH_RULE, ids=str)
def test_in_single_precision_both_paths_choose_the_same_tokens(parts: Parts) -> None:
    """Greedy decoding does not depend on how the text was read (§3.1 row 14)."""
    model = small_model(parts, torch.float32)
    tokens, state = random_tokens(4, 64), model.initial_state(4)
    logits, after = by_steps(model, tokens, state)
    expected, expected_state = model(tokens, state)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    assert_same_state(after, expected_state, tolerance=1e-3)


@pytest.mark.parametrize("parts", EACH_RULE, ids=str)
def test_one_layer_one_head_one_level_is_a_model_too(parts: Parts) -> None:
    level = LevelConfig("only", 32, parts.write_rule)
    model = build(small_config(parts, layers=1, heads=1, levels=(level,), conv_width=1))
    tokens, state = random_tokens(2, 40), model.initial_state(2)
    logits, after = by_steps(model, tokens, state)
    expected, expected_state = model(tokens, state)
    assert_close(logits, expected)
    assert_same_state(after, expected_state)
