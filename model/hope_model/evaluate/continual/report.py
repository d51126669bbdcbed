"""Streams as files: JSON with every a[t][i], Markdown tables, heat maps."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hope_model.evaluate.continual.metrics import Figures, figures_of
from hope_model.evaluate.heat_map import HeatMap, plot_heat_maps
from hope_model.evaluate.ledger import READER, Ledger, Record, distinct, of
from hope_model.evaluate.means import Mean, mean_of
from hope_model.evaluate.tables import about_lines, markdown_table


class Run(NamedTuple):
    """One model, condition and figure, over all seeds whose streams are whole."""

    model: str
    rule: str
    condition: str
    figure: str
    streams: dict[int, Figures]

    @property
    def accuracy(self) -> Mean:
        """ACC_T; with several seeds the error is that of their mean."""
        return _over_seeds([each.accuracy for each in self.streams.values()])

    @property
    def forgetting(self) -> Mean | None:
        """F_T, as ACC_T; None for one task."""
        return _over_seeds_or_none([each.forgetting for each in self.streams.values()])

    @property
    def matrix(self) -> list[list[float]]:
        """a[t][i], the mean over seeds."""
        matrices = [each.matrix for each in self.streams.values()]
        return [
            [sum(cell) / len(cell) for cell in zip(*rows, strict=True)]
            for rows in zip(*matrices, strict=True)
        ]


def write_continual(ledger: Ledger, tasks: int, classes: int) -> str:
    """Write ``continual.json``, ``continual.md`` and, with matplotlib, ``continual.png``; returns Markdown.

    Args:
        classes: of all tasks together.
    """
    runs = list(runs_of(ledger.records, tasks))
    text = _markdown(ledger, runs, classes)
    ledger.write({"chance": 1 / classes, "runs": [_content(run) for run in runs]}, text)
    names = [str(task + 1) for task in range(tasks)]
    maps = [
        HeatMap(f"{run.model}, learning {run.condition}: {run.figure}", names, names, run.matrix)
        for run in runs
    ]
    plot_heat_maps(maps, ledger.path("png"), row_name="after task t", column_name="task i")
    return text


def runs_of(records: Sequence[Record], tasks: int) -> Iterator[Run]:
    """What the records hold of whole streams, in the order of their first coming."""
    for reader in distinct(records, READER):
        own = of(records, **reader)
        for figure in own[0]["right"]:
            streams = {}
            for seed in dict.fromkeys(each["seed"] for each in own):
                rows = sorted(of(own, seed=seed), key=lambda each: int(each["task"]))
                if len(rows) == tasks:
                    streams[seed] = figures_of([each["right"][figure] for each in rows])
            if streams:
                yield Run(**reader, figure=figure, streams=streams)


def _content(run: Run) -> dict[str, Any]:
    return {
        "model": run.model,
        "rule": run.rule,
        "condition": run.condition,
        "figure": run.figure,
        "acc": _mean(run.accuracy),
        "forgetting": _mean(run.forgetting),
        "matrix": run.matrix,
        "streams": [
            {
                "seed": seed,
                "acc": _mean(each.accuracy),
                "forgetting": _mean(each.forgetting),
                "matrix": each.matrix,
                "matrix_stderr": [[cell.error for cell in row] for row in each.accuracies],
            }
            for seed, each in run.streams.items()
        ],
    }


def _markdown(ledger: Ledger, runs: Sequence[Run], classes: int) -> str:
    lines = ["# Continual learning", "", *about_lines(ledger.settings), ""]
    lines += [
        f"One of {classes} classes, chance {1 / classes:.3f}. ACC: accuracy over all tasks after the last. "
        "F: what was lost since a task was known best. Likeliest: the right class's name is the likeliest of "
        "all; calibrated: it gains most over a query that says nothing; greedy: it is what the session says "
        "by itself.",
        "",
    ]
    rows = [
        [
            *(run.model, run.rule, run.condition, run.figure, str(len(run.streams))),
            *(str(run.accuracy), "-" if run.forgetting is None else str(run.forgetting)),
        ]
        for run in runs
    ]
    lines += markdown_table(["model", "rule", "learning", "figure", "seeds", "ACC", "F"], rows)
    for run in runs:
        lines += [
            "",
            f"{run.model}, learning {run.condition}, {run.figure}: accuracy on task i after task t",
            "",
        ]
        head = ["t", *(f"i = {task + 1}" for task in range(len(run.matrix)))]
        cells = [[str(t + 1), *(f"{cell:.2f}" for cell in row)] for t, row in enumerate(run.matrix)]
        lines += markdown_table(head, cells)
    return "\n".join(lines) + "\n"


def _mean(mean: Mean | None) -> dict[str, float | int | None] | None:
    return None if mean is None else {"value": mean.value, "stderr": mean.error, "count": mean.count}


def _over_seeds(means: Sequence[Mean]) -> Mean:
    return means[0] if len(means) == 1 else mean_of([each.value for each in means])


def _over_seeds_or_none(means: Sequence[Mean | None]) -> Mean | None:
    known = [each for each in means if each is not None]
    return _over_seeds(known) if known else None
