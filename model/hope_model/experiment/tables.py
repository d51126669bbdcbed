"""The report's tables; a run that is not there is said to be "not run yet"."""

from collections.abc import Iterable, Sequence

from hope_model.experiment import paper
from hope_model.experiment.figures import (
    TASK_COLUMNS,
    Noise,
    Results,
    finished_systems,
    loss_of,
    position_losses,
    slope,
    task_value,
    title_of,
    verdict,
)
from hope_model.experiment.plan import HOPE, PAIRS, SYSTEMS, TRANSFORMER, Run, sizes_of
from hope_model.experiment.results import Result

MISSING = "not run yet"
PERPLEXITIES = 2
"""So many columns of the paper's table come before its accuracies."""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def systems(results: Results) -> str:
    """Our figures, best first, then those that are still to come."""
    head = (
        "system", "held-out, nats", "32k streams, nats", "last half of them", "state, KiB",
        "parameters", "rate", "tokens / core s",
    )  # fmt: skip
    rows = []
    for name in finished_systems(results):
        own = results[name]
        rows.append(
            (
                title_of(name),
                f"{loss_of(own):.3f}",
                f"{own['evaluation']['streams']['loss']:.3f}",
                f"{position_losses(own)[-1][1]:.3f}",
                f"{own['state_bytes'] / 1024:,.0f}",
                f"{own['parameters']:,}",
                f"{own['learning_rate']:g}",
                f"{own['tokens_per_cpu_s']:,.0f}" if own["device"] == "cpu" else "on a GPU",
            )
        )
    return markdown(head, [*rows, *_missing(results, SYSTEMS, len(head))])


def beside_paper(results: Results) -> str:
    """Each figure of the paper's Table 2 (760M), then ours; accuracies in percent, and their mean."""
    rows = []
    for run in SYSTEMS:
        theirs = paper.TABLE_2.get(run.name)
        ours = _paper_row(results[run.name]) if run.name in results else None
        cells = []
        for at in range(len(paper.COLUMNS)):
            left = "-" if theirs is None else f"{theirs[at]:g}"
            cells.append(f"{left} / {'-' if ours is None else _shown(ours[at], at)}")
        left = "-" if theirs is None else f"{_mean_accuracy(theirs):.1f}"
        rows.append(
            (run.title, *cells, f"{left} / {MISSING if ours is None else f'{_mean_accuracy(ours):.1f}'}")
        )
    return markdown(("system", *paper.COLUMNS, "mean"), rows)


def errors(results: Results) -> str:
    """Standard errors of our accuracies, in points: the largest of all systems by column."""
    rows = []
    for column, (task, figure) in zip(paper.COLUMNS, TASK_COLUMNS, strict=True):
        found = [error for own in results.values() if (error := task_value(own, task, figure)[1]) is not None]
        if found and figure.startswith("acc"):
            rows.append(f"{column} {100 * max(found):.1f}")
    return ", ".join(rows)


def ablations(results: Results, noise: Noise | None) -> str:
    """The paper's Table 6 beside ours: what taking a part away adds to the loss."""
    whole = paper.TABLE_6_HOPE
    head = (
        "without",
        f"paper: ppl {whole[0]:g} becomes",
        f"paper: accuracy {whole[1]:g} becomes",
        "with, nats",
        "without, nats",
        "change",
        "judged",
    )
    rows = []
    for column, with_it, without in PAIRS:
        perplexity, accuracy = paper.TABLE_6[column]
        cells = [
            MISSING if name not in results else f"{loss_of(results[name]):.3f}" for name in (with_it, without)
        ]
        change = judged = ""
        if with_it in results and without in results:
            difference = loss_of(results[without]) - loss_of(results[with_it])
            change, judged = f"{difference:+.3f}", verdict(difference, noise)
        rows.append((column.removeprefix("w/o "), f"{perplexity:g}", f"{accuracy:g}", *cells, change, judged))
    return markdown(head, rows)


def sizes(results: Results) -> str:
    rows = []
    for system in (TRANSFORMER, HOPE):
        for run in sizes_of(system.name):
            own = results.get(run.name)
            rows.append(
                (system.title, f"{run.parameters:,}", MISSING if own is None else f"{loss_of(own):.3f}")
            )
        found = slope(results, system.name)
        rows.append(
            (
                f"{system.title}, nats per tenfold parameters",
                "",
                MISSING if found is None else f"{found[0]:+.3f}",
            )
        )
    return markdown(("system", "parameters", "held-out, nats"), rows)


def recall(results: Results) -> str:
    """Nats per token that a second reading of a passage saves, by the gap between."""
    names = finished_systems(results)
    gaps = list(results[names[0]]["evaluation"]["recall"]["saved"]) if names else []
    head = ("system", *(f"gap {gap}" for gap in gaps))
    return markdown(
        head,
        [
            (title_of(name), *(f"{results[name]['evaluation']['recall']['saved'][gap]:+.2f}" for gap in gaps))
            for name in names
        ],
    )


def levels(results: Results) -> str:
    """Of every level of a finished system: its period, its measured frequency, how far it has gone."""
    rows = [
        (
            title_of(name), level["name"], str(level["period"]), f"{level['frequency']:.5f}",
            "" if level["drift"] is None else f"{level['drift']:.2f}", f"{level['bytes'] / 1024:,.0f}",
        )
        for name in finished_systems(results)
        for level in results[name]["evaluation"]["levels"]
    ]  # fmt: skip
    return markdown(("system", "level", "period, tokens", "writes / token", "drift", "KiB"), rows)


def tuning(results: Results) -> str:
    """The mean loss of each rate that was tried; a rate beyond the others is empty where it was not."""
    rates = sorted({float(rate) for own in results.values() for rate in own["tuning"]})
    rows = []
    for name, own in results.items():
        if not own["run"]["rate_of"]:
            tried = {float(rate): loss for rate, loss in own["tuning"].items()}
            losses = (_tried(tried[rate]) if rate in tried else "" for rate in rates)
            rows.append((title_of(name), *losses, f"{own['learning_rate']:g}"))
    return markdown(("run", *(f"{rate:g}" for rate in rates), "taken"), rows)


def noise(found: Noise) -> str:
    rows = [
        (title_of(name), *(f"{loss:.3f}" for loss in losses), f"{max(losses) - min(losses):.3f}")
        for name, losses in found.by_system.items()
    ]
    width = len(next(iter(found.by_system.values())))
    return markdown(("system", *(f"seed {seed + 1}" for seed in range(width)), "range"), rows)


def _paper_row(own: Result) -> list[float]:
    """Our figures in the paper's order and units."""
    return [
        task_value(own, task, figure)[0] * (100 if figure.startswith("acc") else 1)
        for task, figure in TASK_COLUMNS
    ]


def _shown(value: float, column: int) -> str:
    return f"{value:,.0f}" if column < PERPLEXITIES else f"{value:.1f}"


def _mean_accuracy(row: Sequence[float]) -> float:
    return sum(row[PERPLEXITIES:]) / len(row[PERPLEXITIES:])


def _missing(results: Results, runs: Iterable[Run], columns: int) -> list[tuple[str, ...]]:
    return [(run.title, MISSING, *[""] * (columns - 2)) for run in runs if run.name not in results]


def _tried(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.3f}"
