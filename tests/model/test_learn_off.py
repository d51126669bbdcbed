"""E29 for Hope: tokens that may not teach leave the CMS as it is, and change nothing for their neighbours."""

from __future__ import annotations

import pytest
import torch
from tests.model.small import (
    Parts,
    assert_identical,
    assert_same_state,
    random_tokens,
    row_of,
    small_model,
    state_at,
)
from torch import Tensor

from hope_model.hope import Hope
from hope_model.state import State

START, TOKENS = 5, 37
LEVELS = ("fast", "slower")


KINDS = [
    Parts(),
    Parts(write_rule="adam", aggregation="concat"),
    Parts(rule="gated", write_rule="momentum", aggregation="attention"),
]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def model(request: pytest.FixtureRequest) -> Hope:
    parts: Parts = request.param
    return small_model(parts)


def read_at_once(model: Hope, tokens: Tensor, state: State, learn: Tensor | None) -> tuple[Tensor, State]:
    return model.forward(tokens, state, learn)


def read_in_steps(model: Hope, tokens: Tensor, state: State, learn: Tensor | None) -> tuple[Tensor, State]:
    logits = []
    for place, token in enumerate(tokens.unbind(1)):
        one, state = model.step(token, state, None if learn is None else learn[:, place])
        logits.append(one)
    return torch.stack(logits, dim=1), state


@torch.no_grad()
def read_in_place(model: Hope, tokens: Tensor, state: State, learn: Tensor | None) -> tuple[Tensor, State]:
    """On rows of a slab, through the operations that have kernels."""
    slots = torch.arange(len(tokens), 0, -1)
    slab = {name: torch.cat((tensor[:1], tensor.flip(0))).clone() for name, tensor in state.items()}
    logits = [
        model.step_rows(token, slab, slots, None if learn is None else learn[:, place])
        for place, token in enumerate(tokens.unbind(1))
    ]
    return torch.stack(logits, dim=1), {name: tensor[slots] for name, tensor in slab.items()}


READERS = [read_at_once, read_in_steps, read_in_place]


def taught(state: State) -> State:
    """What the CMS holds, gathers and remembers of its writes."""
    found = {
        name: tensor
        for name, tensor in state.items()
        if any(f".{level}." in name for level in LEVELS) and not name.endswith("last_key")
    }
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("read", READERS)
def test_a_turn_that_teaches_nothing_leaves_every_bit_of_the_cms(model: Hope, read: object) -> None:
    assert callable(read)
    before = state_at(model, 2, START)
    off = torch.zeros(2, TOKENS, dtype=torch.bool)
    _, after = read(model, random_tokens(2, TOKENS), before, off)
    assert_identical(taught(after), taught(before))
    count = len(model.state_spec.learning_levels) - len(LEVELS)
    assert torch.equal(after["writes"][:, count:], before["writes"][:, count:])
    assert torch.equal(after["refused"], before["refused"])
    assert torch.equal(after["position"], before["position"] + TOKENS)
    _, learned = read(model, random_tokens(2, TOKENS), before, None)
    assert not torch.equal(learned["layers.0.fast.delta"], before["layers.0.fast.delta"])


@pytest.mark.parametrize("read", READERS)
def test_phi_runs_on_with_what_it_reads(model: Hope, read: object) -> None:
    """Two texts that teach nothing are told apart by what follows, long after four tokens."""
    assert callable(read)
    tokens = random_tokens(2, TOKENS)
    tokens[:, -8:] = tokens[0, -8:]
    before = {name: tensor[[0, 0]] for name, tensor in state_at(model, 1, START).items()}
    logits, after = read(model, tokens, before, torch.zeros(2, TOKENS, dtype=torch.bool))
    assert not torch.equal(logits[0, -1], logits[1, -1])
    assert torch.equal(after["writes"][:, 0], before["writes"][:, 0] + TOKENS)


@pytest.mark.parametrize("read", READERS[1:])
def test_every_way_of_reading_agrees_where_turns_change_inside_periods(model: Hope, read: object) -> None:
    assert callable(read)
    before, tokens = state_at(model, 3, START), random_tokens(3, TOKENS)
    learn = torch.rand(3, TOKENS, generator=torch.Generator().manual_seed(3)) < 0.5
    expected_logits, expected = read_at_once(model, tokens, before, learn)
    logits, found = read(model, tokens, before, learn)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-9)
    assert_same_state(found, expected)


@pytest.mark.parametrize("read", READERS)
def test_neighbours_keep_their_bits(model: Hope, read: object) -> None:
    """A row that learns, beside one that does not, is the row beside one that does."""
    assert callable(read)
    before, tokens = state_at(model, 2, START), random_tokens(2, TOKENS)
    learn = torch.ones(2, TOKENS, dtype=torch.bool)
    learn[1] = False
    mixed_logits, mixed = read(model, tokens, before, learn)
    logits, learning = read(model, tokens, before, None)
    assert_identical(row_of(mixed, 0), row_of(learning, 0))
    assert torch.equal(mixed_logits[0], logits[0])


def test_what_other_turns_gathered_waits_for_the_next_end_that_may_write() -> None:
    model = small_model()
    tokens = random_tokens(1, 24)
    learn = torch.ones(1, 24, dtype=torch.bool)
    learn[0, 4:12] = False  # over the end of the first period of 8
    _, early = model.forward(tokens[:, :4], model.initial_state(1), learn[:, :4])
    _, middle = model.forward(tokens[:, 4:12], early, learn[:, 4:12])
    assert bool(early["layers.0.fast.gradient"].any())
    assert_identical(taught(middle), taught(early))
    _, late = model.forward(tokens[:, 12:], middle, learn[:, 12:])
    assert late["writes"].tolist() == [[24, 3, 2, 1]]
    assert bool(late["layers.0.fast.delta"].any())
