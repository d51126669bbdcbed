"""Flipped bits in the store are noticed."""

import pytest
from tests.fuzz.flips import flip


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
async def test_every_flipped_bit_is_noticed(count: int) -> None:
    flips = await flip(count, seed=count)
    assert flips.tried.total() == count
    assert {"record", "chunk", "snap_manifest", "transcript", "name"} <= flips.tried.keys()
    assert flips.unnoticed == []
