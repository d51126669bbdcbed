"""The sizes of decode launches, and which of them become graphs: every row once, memory within its bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_server.engine.decode_sizes import WARM_LAUNCHES, DecodeSizes, GraphPlan, How, candidate_sizes

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted)


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (16, (1, 2, 4, 8, 16)), (20, (1, 2, 4, 8, 16, 20))],
)
def test_candidates_are_powers_of_two_and_the_most(most: int, expected: tuple[int, ...]) -> None:
    assert candidate_sizes(most) == expected


@pytest.mark.parametrize("sizes", [[], [0, 1], [2, 1], [1, 1]])
def test_sizes_ascend(sizes: list[int]) -> None:
    with pytest.raises(AssertionError, match="size"):
        DecodeSizes(sizes)


@given(SIZES, st.integers(0, 200))
def test_every_row_is_launched_once_in_the_least_size_that_holds_it(sizes: list[int], rows: int) -> None:
    launches = DecodeSizes(sizes).cut(rows)
    assert [row for own in launches for row in range(own.first, own.first + own.rows)] == list(range(rows))
    for own in launches[:-1]:
        assert own.rows == own.size == sizes[-1]
    for own in launches[-1:]:
        assert own.rows <= own.size
        assert own.size == min(size for size in sizes if size >= own.rows)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(0, 60), st.integers(0, 9)), max_size=60))
def test_graphs_stay_within_their_memory_and_end_with_a_failure(
    launches: list[tuple[int, int, int]],
) -> None:
    """Of each launch: its size, what a capture takes, and whether it fails (0)."""
    plan, used, kept, failed = GraphPlan(100), dict.fromkeys((1, 2, 4), 0), set[int](), False
    for size, taken, luck in launches:
        how = plan.next(size)
        used[size] += 1
        if failed or used[size] <= WARM_LAUNCHES:
            assert how is How.EAGER
        assert (how is How.REPLAY) == (size in kept and not failed)
        if how is How.CAPTURE:
            if luck == 0:
                plan.failed()
                failed = True
            elif plan.captured(size, taken):
                kept.add(size)
        plan.check_integrity()
        assert plan.bytes <= 100


def test_a_graph_that_is_too_large_is_not_tried_again() -> None:
    plan = GraphPlan(100)
    for _ in range(WARM_LAUNCHES):
        assert plan.next(4) is plan.next(8) is How.EAGER
    assert plan.next(4) is How.CAPTURE
    assert plan.captured(4, 70)
    assert plan.next(8) is How.CAPTURE
    assert not plan.captured(8, 31)
    assert plan.next(8) is How.EAGER
    assert plan.next(4) is How.REPLAY
