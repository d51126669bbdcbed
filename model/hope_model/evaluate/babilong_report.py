"""bAbI in long text as files: JSON, a Markdown table, heat maps of task and length."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hope_model.evaluate.heat_map import HeatMap, plot_heat_maps, shares_of
from hope_model.evaluate.ledger import READER, Ledger, Record, distinct, of
from hope_model.evaluate.means import Mean, mean_of
from hope_model.evaluate.tables import about_lines, markdown_table

FIGURES = ("likeliest", "greedy", "chance")
"""The right answer is the likeliest of its task's; the free answer begins with it; what guessing gives."""


def write_babilong(ledger: Ledger) -> str:
    """Write ``babilong.json``, ``babilong.md`` and, with matplotlib, ``babilong.png``; returns Markdown."""
    cells, text = summary(ledger.records), markdown(ledger.settings, ledger.records)
    ledger.write({"cells": cells}, text)
    _plot(cells, ledger.path("png"))
    return text


def summary(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Shares with standard errors of every model, condition, task and length; task None: of all tasks."""
    cells: list[dict[str, Any]] = []
    for reader in distinct(records, READER):
        own = of(records, **reader)
        for task in (*sorted({each["task"] for each in own}), None):
            of_task = own if task is None else of(own, task=task)
            for length in sorted({each["length"] for each in of_task}):
                means = means_of(of(of_task, length=length))
                cell = {**reader, "task": task, "length": length, "questions": means["greedy"].count}
                for name, mean in means.items():
                    cell |= {name: mean.value, f"{name}_stderr": mean.error}
                cells.append(cell)
    return cells


def means_of(records: Sequence[Record]) -> dict[str, Mean]:
    return {
        "likeliest": mean_of([float(each["likeliest"]) for each in records]),
        "greedy": mean_of([float(each["greedy"]) for each in records]),
        "chance": mean_of([1 / each["answers"] for each in records]),
    }


def markdown(about: Mapping[str, Any], records: Sequence[Record]) -> str:
    """What was measured, and shares by task and length."""
    lines = ["# bAbI in long text", "", *about_lines(about), ""]
    lines += ["The right answer is the likeliest of its task's answers; the free answer begins with it.", ""]
    rows = [
        [
            *(cell[name] for name in READER),
            "all" if cell["task"] is None else str(cell["task"]),
            str(cell["length"]),
            str(cell["questions"]),
            *(str(Mean(cell[name], cell[f"{name}_stderr"], 0)) for name in FIGURES[:2]),
            f"{cell['chance']:.3f}",
        ]
        for cell in summary(records)
    ]
    head = ["model", "rule", "learning", "task", "length", "questions", "likeliest", "free answer", "chance"]
    return "\n".join(lines + markdown_table(head, rows)) + "\n"


def _plot(cells: Sequence[Record], path: Path) -> None:
    tasks = sorted({cell["task"] for cell in cells if cell["task"] is not None})
    lengths = sorted({cell["length"] for cell in cells})
    maps = [
        HeatMap(
            f"{reader['model']}, learning {reader['condition']}",
            [f"qa{task}" for task in tasks],
            [str(length) for length in lengths],
            shares_of(of(cells, **reader), "likeliest", ("task", tasks), ("length", lengths)),
        )
        for reader in distinct(cells, READER)
    ]
    plot_heat_maps(maps, path, row_name="task", column_name="length")
