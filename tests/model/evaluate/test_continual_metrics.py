"""ACC_T and F_T (the seed's A.3), by hand and by what must hold of any matrix."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_model.errors import DataError
from hope_model.evaluate.continual.metrics import figures_of, final_accuracy, forgetting

SHARES = st.floats(0, 1)
SIZES = st.integers(1, 5)


@st.composite
def matrices(draw: st.DrawFn) -> list[list[float]]:
    size = draw(SIZES)
    return [[draw(SHARES) for _ in range(size)] for _ in range(size)]


@st.composite
def outcomes(draw: st.DrawFn) -> list[list[list[bool]]]:
    size = draw(SIZES)
    counts = [draw(st.integers(1, 4)) for _ in range(size)]
    return [
        [draw(st.lists(st.booleans(), min_size=count, max_size=count)) for count in counts]
        for _ in range(size)
    ]


@pytest.mark.parametrize(
    ("a", "accuracy", "lost"),
    [
        ([[0.9, 0.1, 0.0], [0.7, 0.8, 0.2], [0.5, 0.6, 1.0]], 0.7, 0.3),  # ((0.9 - 0.5) + (0.8 - 0.6)) / 2
        ([[0.5, 0.9, 0.0], [0.5, 0.6, 0.0], [0.5, 0.7, 0.9]], 0.7, 0.1),  # guessed best before it was taught
        ([[0.2, 0.0], [0.6, 0.4]], 0.5, -0.4),  # the second task helped the first
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], 1 / 3, 1.0),
    ],
)
def test_both_figures_by_hand(a: list[list[float]], accuracy: float, lost: float) -> None:
    assert final_accuracy(a) == pytest.approx(accuracy)
    assert forgetting(a) == pytest.approx(lost)


def test_of_one_task_nothing_can_be_forgotten() -> None:
    assert final_accuracy([[0.25]]) == 0.25
    assert forgetting([[0.25]]) is None
    assert figures_of([[[True, False]]]).forgetting is None


@pytest.mark.parametrize("a", [[], [[0.5, 0.5]], [[0.5], [0.5]], [[0.5, 0.5], [0.5]]])
def test_a_matrix_that_is_not_square_is_refused(a: list[list[float]]) -> None:
    for figure in (final_accuracy, forgetting):
        with pytest.raises(DataError, match="expected as many rows as tasks"):
            figure(a)


@given(matrices())
def test_what_holds_of_any_matrix(a: list[list[float]]) -> None:
    accuracy, lost = final_accuracy(a), forgetting(a)
    assert min(a[-1]) - 1e-12 <= accuracy <= max(a[-1]) + 1e-12
    if lost is None:
        assert len(a) == 1
        return
    assert -1 <= lost <= 1
    assert forgetting([*a[:-1], [max(row[i] for row in a[:-1]) for i in range(len(a))]]) == pytest.approx(0)
    # The last task can have lost nothing, and the order of the earlier rows says nothing.
    changed = [[*row[:-1], 0.0] for row in a]
    assert forgetting(changed) == pytest.approx(lost)
    assert forgetting([*reversed(a[:-1]), a[-1]]) == pytest.approx(lost)


@given(outcomes())
def test_figures_of_answers_are_those_of_their_shares(found: list[list[list[bool]]]) -> None:
    figures = figures_of(found)
    assert figures.matrix == [[sum(cell) / len(cell) for cell in row] for row in found]
    assert figures.accuracy.value == final_accuracy(figures.matrix)
    lost = None if figures.forgetting is None else figures.forgetting.value
    assert lost == forgetting(figures.matrix)
    errors = [cell.error for cell in figures.accuracies[-1]]
    assert (figures.accuracy.error is None) == (None in errors)


def test_standard_errors_by_hand() -> None:
    """Task 1 of four questions, task 2 of two; what was lost is compared question by question."""
    before = [[True, True, True, False], [False, False]]
    after = [[True, False, False, False], [True, False]]
    figures = figures_of([before, after])
    assert figures.accuracy.value == pytest.approx((0.25 + 0.5) / 2)
    first, second = 0.25 * 0.75 * 4 / 3 / 4, 0.5 * 0.5 * 2 / 2  # variances of the means
    assert figures.accuracy.error == pytest.approx(math.sqrt(first + second) / 2)
    assert figures.forgetting is not None
    assert figures.forgetting.value == pytest.approx(0.5)  # lost: 0, 1, 1, 0
    assert figures.forgetting.error == pytest.approx(math.sqrt(4 * 0.25 / 3 / 4))


@pytest.mark.parametrize("found", [[[[True], []], [[True], []]], [[[True], [True]], [[True], [True, False]]]])
def test_questions_that_change_are_refused(found: list[list[list[bool]]]) -> None:
    with pytest.raises(DataError, match="expected the same questions"):
        figures_of(found)
