"""Figures that the report is made of, from results alone."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hope_model.experiment import paper
from hope_model.experiment.plan import ALL, SYSTEMS, seed_runs, sizes_of
from hope_model.experiment.results import Result

Results = Mapping[str, Result]
TASK_COLUMNS = (
    ("wikitext", "word_perplexity"),
    ("lambada", "perplexity"),
    ("lambada", "acc"),
    ("piqa", "acc"),
    ("hellaswag", "acc_norm"),
    ("winogrande", "acc"),
    ("arc_easy", "acc"),
    ("arc_challenge", "acc_norm"),
    ("siqa", "acc"),
    ("boolq", "acc"),
)
"""Our figures in the order of the paper's columns, with the accuracies that are usual for each."""


def loss_of(result: Result) -> float:
    """Nats per token of held-out text: what runs are compared by."""
    return float(result["evaluation"]["heldout"]["loss"])


def losses_of(results: Results) -> dict[str, float]:
    """Of every run that has a result."""
    return {name: loss_of(result) for name, result in results.items()}


def finished_systems(results: Results) -> list[str]:
    """Systems that have a result, best first."""
    names = [run.name for run in SYSTEMS if run.name in results]
    return sorted(names, key=lambda name: loss_of(results[name]))


STUDENT = {2: 4.303, 4: 2.776, 6: 2.447, 8: 2.306, 10: 2.228, 12: 2.179}
"""Two-sided 95% quantiles of Student's distribution by degrees of freedom; fewer are the wider."""


@dataclass(frozen=True)
class Noise:
    """How far runs of one system lie apart that differ in nothing but the seed.

    Attributes:
        by_system: losses by seed, of systems that have all seeds.
        deviation: pooled standard deviation of a run.
        paired: standard deviation of what is left of a loss without its system's mean and its seed's, which
            all systems share; None while one system alone has all seeds.
    """

    by_system: Mapping[str, Sequence[float]]
    deviation: float
    paired: float | None = None

    @property
    def freedom(self) -> int:
        """Degrees of freedom of ``paired``."""
        seeds = len(next(iter(self.by_system.values())))
        return (len(self.by_system) - 1) * (seeds - 1)

    @property
    def repetition(self) -> float:
        """Runs of one system with any two seeds differ by less in 19 of 20 cases: ``1.96 sqrt(2) sd``."""
        return 1.96 * math.sqrt(2) * self.deviation

    @property
    def difference(self) -> float:
        """Runs of two systems with one seed differ by less than this in 19 of 20 cases by chance alone."""
        if self.paired is None:
            return self.repetition
        known = max((freedom for freedom in STUDENT if freedom <= self.freedom), default=min(STUDENT))
        return STUDENT[known] * math.sqrt(2) * self.paired


def noise_of(results: Results) -> Noise | None:
    """None until a system has been run with every seed."""
    by_system = {}
    for system in SYSTEMS:
        names = [system.name, *(run.name for run in seed_runs(system))]
        if all(name in results for name in names):
            by_system[system.name] = [loss_of(results[name]) for name in names]
    if not by_system:
        return None
    variances = [statistics.variance(losses) for losses in by_system.values()]
    return Noise(by_system, math.sqrt(sum(variances) / len(variances)), _paired(list(by_system.values())))


def _paired(losses: Sequence[Sequence[float]]) -> float | None:
    """Of ``[systems, seeds]``, without the means of both; None for one system."""
    if len(losses) < 2:
        return None
    seeds = [statistics.fmean(column) for column in zip(*losses, strict=True)]
    systems, whole = [statistics.fmean(row) for row in losses], statistics.fmean(seeds)
    left = [
        (loss - system - seed + whole) ** 2
        for row, system in zip(losses, systems, strict=True)
        for loss, seed in zip(row, seeds, strict=True)
    ]
    return math.sqrt(sum(left) / ((len(systems) - 1) * (len(seeds) - 1)))


def verdict(difference: float, noise: Noise | None) -> str:
    """``lower``, ``higher`` or ``within noise`` for a difference of losses; ``?`` marks an unknown noise."""
    if noise is None:
        return f"{'lower' if difference < 0 else 'higher'}?"
    if abs(difference) <= noise.difference:
        return "within noise"
    return "lower" if difference < 0 else "higher"


@dataclass(frozen=True)
class Repeated:
    """A run made twice: its losses, and the difference that chance makes (None: not known)."""

    name: str
    first: float
    second: float
    allowed: float | None

    @property
    def within(self) -> bool:
        return self.allowed is not None and abs(self.second - self.first) <= self.allowed

    def text(self) -> str:
        if self.allowed is None:
            judged = "the noise is not known yet"
        else:
            judged = f"{'within' if self.within else 'outside of'} the noise of {self.allowed:.4f}"
        difference = f"{self.second - self.first:+.4f}"
        return f"{self.name:24} {self.first:.4f} {self.second:.4f} {difference} nats, {judged}"


def repeated(results: Results, again: Results) -> list[Repeated]:
    """The runs that both have."""
    noise = noise_of(results)
    allowed = None if noise is None else noise.repetition
    return [
        Repeated(name, loss_of(results[name]), loss_of(again[name]), allowed)
        for name in results
        if name in again
    ]


def rank_correlation(results: Results) -> tuple[float, int] | None:
    """Spearman's between our held-out loss and the paper's WikiText perplexity, and of how many systems; None
    below four.
    """
    names = [name for name in finished_systems(results) if name in paper.TABLE_2]
    if len(names) < 4:
        return None
    theirs = sorted(names, key=lambda name: paper.TABLE_2[name][0])
    squares = sum((names.index(name) - theirs.index(name)) ** 2 for name in names)
    count = len(names)
    return 1 - 6 * squares / (count * (count**2 - 1)), count


def slope(results: Results, system: str) -> tuple[float, list[tuple[int, float]]] | None:
    """Nats per tenfold parameters by least squares, and the points; None below two sizes."""
    names = [run.name for run in sizes_of(system) if run.name in results]
    points = [(results[name]["parameters"], loss_of(results[name])) for name in names]
    if len(points) < 2:
        return None
    xs = [math.log10(count) for count, _ in points]
    ys = [loss for _, loss in points]
    return statistics.linear_regression(xs, ys).slope, points


def task_value(result: Result, task: str, figure: str) -> tuple[float, float | None]:
    """A benchmark's figure and its standard error."""
    found = result["evaluation"]["tasks"][task]
    return float(found[figure]), found.get(f"{figure}_stderr")


def position_losses(result: Result) -> list[tuple[int, float]]:
    """Long streams: the end of every stretch and its mean loss over the books."""
    streams = result["evaluation"]["streams"]
    rows = list(streams["streams"].values())
    return [(end, sum(row[at] for row in rows) / len(rows)) for at, end in enumerate(streams["ends"])]


def title_of(name: str) -> str:
    return ALL[name].title
