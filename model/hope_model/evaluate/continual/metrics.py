"""Accuracy at the end and forgetting (the seed's A.3), from who answered what rightly.

``a[t][i]`` is the accuracy on task ``i`` after training up to task ``t``, with every ``i`` for every ``t``:

    ACC_T = 1/T sum_{i=1..T} a[T][i]
    F_T   = 1/(T-1) sum_{i=1..T-1} ( max_{t<T} a[t][i] - a[T][i] )
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hope_model.errors import DataError
from hope_model.evaluate.means import Mean, mean_of

Matrix = Sequence[Sequence[float]]
Outcomes = Sequence[Sequence[Sequence[bool]]]
"""``outcomes[t][i]``: of each question of task ``i``, always the same ones, after task ``t``."""


@dataclass(frozen=True)
class Figures:
    """Of one stream. accuracies: the whole ``a[t][i]``. forgetting: None for a single task."""

    accuracies: tuple[tuple[Mean, ...], ...]
    accuracy: Mean
    forgetting: Mean | None

    @property
    def matrix(self) -> list[list[float]]:
        return [[cell.value for cell in row] for row in self.accuracies]


def final_accuracy(a: Matrix) -> float:
    """ACC_T. Raises DataError for a matrix that is not square."""
    _require_square(a)
    return sum(a[-1]) / len(a)


def forgetting(a: Matrix) -> float | None:
    """F_T; None for T = 1, for which it is not defined. Raises DataError for a matrix that is not square."""
    _require_square(a)
    if len(a) == 1:
        return None
    lost = [max(row[i] for row in a[:-1]) - a[-1][i] for i in range(len(a) - 1)]
    return sum(lost) / len(lost)


def figures_of(outcomes: Outcomes) -> Figures:
    """Both figures with standard errors.

    Tasks are taken as independent; what was lost of a task is compared question by question, with the first
    time at which its accuracy was highest. That this time was chosen for its height is not in the error.

    Raises:
        DataError: not as many rows as tasks, or a task whose questions are not always the same.
    """
    for row in outcomes:
        if [len(cell) for cell in row] != [len(cell) for cell in outcomes[0]] or not all(row):
            raise DataError("outcomes: expected the same questions of a task in every row, one at least")
    means = tuple(tuple(mean_of([float(x) for x in cell]) for cell in row) for row in outcomes)
    matrix = [[cell.value for cell in row] for row in means]
    accuracy = _together(final_accuracy(matrix), means[-1])
    lost = forgetting(matrix)
    if lost is None:
        return Figures(means, accuracy, None)
    return Figures(
        means, accuracy, _together(lost, [_lost(outcomes, matrix, i) for i in range(len(matrix) - 1)])
    )


def _lost(outcomes: Outcomes, matrix: Matrix, task: int) -> Mean:
    """What was lost of one task, question by question."""
    best = max(range(len(matrix) - 1), key=lambda t: matrix[t][task])
    pairs = zip(outcomes[best][task], outcomes[-1][task], strict=True)
    return mean_of([float(before) - float(after) for before, after in pairs])


def _together(value: float, parts: Sequence[Mean]) -> Mean:
    """The mean of independent means, with its error; None where one has none."""
    count = sum(part.count for part in parts)
    errors = [part.error for part in parts if part.error is not None]
    if len(errors) < len(parts):
        return Mean(value, None, count)
    return Mean(value, math.sqrt(sum(error**2 for error in errors)) / len(parts), count)


def _require_square(a: Matrix) -> None:
    if not a or any(len(row) != len(a) for row in a):
        raise DataError(
            f"accuracies: expected as many rows as tasks, found {len(a)} rows of {[len(row) for row in a]}"
        )
