"""Rows in the slab: a lent batch, its return, and neighbours that must not change."""

import torch

from hope_model.state import State
from hope_server.engine.slab import LiveRows, Slab


def initial() -> State:
    return {"a": torch.full((1, 3), 0.5), "n": torch.zeros(1, dtype=torch.int64)}


def value(state: State, row: int = 0) -> tuple[float, int]:
    assert bool((state["a"][row] == state["a"][row, 0]).all())
    return float(state["a"][row, 0]), int(state["n"][row])


def row(number: int) -> State:
    return {"a": torch.full((1, 3), float(number)), "n": torch.tensor([number])}


def test_writing_and_clearing_a_row_leaves_the_others_alone() -> None:
    slab = Slab(initial(), 3)
    slab.write(1, row(7))
    assert [value(slab.view(i)) for i in range(3)] == [(0.5, 0), (7.0, 7), (0.5, 0)]
    slab.clear(1)
    assert value(slab.view(1)) == (0.5, 0)


def test_a_group_is_padded_with_the_untouched_initial_row() -> None:
    live = LiveRows(initial(), 4, 3)
    live.write(2, row(2))
    batch = live.group((2,))
    assert [value(batch, i) for i in range(3)] == [(2.0, 2), (0.5, 0), (0.5, 0)]
    live.put_group((2,), {name: tensor + 10 for name, tensor in batch.items()})
    assert value(live.row(2)) == (12.0, 12)
    assert [value(live.group((0, 1)), i) for i in range(3)] == [(0.5, 0)] * 3


def test_a_lent_group_comes_back_when_others_ask_for_its_rows() -> None:
    live = LiveRows(initial(), 4, 2)
    for number in range(4):
        live.write(number, row(number))
    live.put_group((0, 1), {name: tensor + 10 for name, tensor in live.group((0, 1)).items()})
    live.put_group((2, 3), {name: tensor + 20 for name, tensor in live.group((2, 3)).items()})
    assert live.group((0, 1)) is live.group((0, 1))
    mixed = live.group((1, 2))
    assert [value(mixed, i) for i in range(2)] == [(11.0, 11), (22.0, 22)]
    assert [value(live.row(i)) for i in range(4)] == [(10.0, 10), (11.0, 11), (22.0, 22), (23.0, 23)]


def test_writing_or_clearing_a_lent_row_keeps_its_companions_progress() -> None:
    live = LiveRows(initial(), 2, 2)
    live.put_group((0, 1), {name: tensor + 5 for name, tensor in live.group((0, 1)).items()})
    live.write(0, row(1))
    assert (value(live.row(0)), value(live.row(1))) == ((1.0, 1), (5.5, 5))
    live.put_group((0, 1), {name: tensor + 1 for name, tensor in live.group((0, 1)).items()})
    live.clear(1)
    assert (value(live.row(0)), value(live.row(1))) == ((2.0, 2), (0.5, 0))
