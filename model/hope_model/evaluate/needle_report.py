"""Needles as files: JSON, a Markdown table, heat maps of length and depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hope_model.evaluate.heat_map import HeatMap, plot_heat_maps, shares_of
from hope_model.evaluate.ledger import READER, Ledger, Record, distinct, of
from hope_model.evaluate.means import Mean, mean_of
from hope_model.evaluate.needle import CHANCE
from hope_model.evaluate.tables import about_lines, markdown_table

FIGURES = ("likeliest", "greedy")
"""The right value is the likeliest of eight; the free answer holds it."""


def write_needles(ledger: Ledger) -> str:
    """Write ``needle.json``, ``needle.md`` and, with matplotlib, ``needle.png``; returns the Markdown."""
    cells, text = summary(ledger.records), markdown(ledger.settings, ledger.records)
    ledger.write({"chance": CHANCE, "cells": cells}, text)
    _plot(cells, ledger.path("png"))
    return text


def summary(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Shares with standard errors of every model, condition, length and depth."""
    cells = []
    for place in distinct(records, (*READER, "length", "depth")):
        means = _means(of(records, **place))
        cells.append(
            place
            | {"needles": means["greedy"].count}
            | {name: mean.value for name, mean in means.items()}
            | {f"{name}_stderr": mean.error for name, mean in means.items()}
        )
    return cells


def markdown(about: Mapping[str, Any], records: Sequence[Record]) -> str:
    """What was measured, and shares by length over all depths."""
    lines = ["# Needle in a haystack", "", *about_lines(about), ""]
    lines += [f"The right value is the likeliest of eight (chance {CHANCE}); the free answer holds it.", ""]
    rows = []
    for reader in distinct(records, READER):
        own = of(records, **reader)
        for length in sorted({each["length"] for each in own}):
            means = _means(of(own, length=length))
            shares = [str(means[name]) for name in FIGURES]
            rows.append([*reader.values(), str(length), str(means["greedy"].count), *shares])
    head = ["model", "rule", "learning", "length", "needles", "likeliest", "free answer"]
    return "\n".join(lines + markdown_table(head, rows)) + "\n"


def _means(records: Sequence[Record]) -> dict[str, Mean]:
    return {name: mean_of([float(each[name]) for each in records]) for name in FIGURES}


def _plot(cells: Sequence[Record], path: Path) -> None:
    lengths = sorted({cell["length"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    maps = [
        HeatMap(
            f"{reader['model']}, learning {reader['condition']}: {name}",
            [f"{depth}%" for depth in depths],
            [str(length) for length in lengths],
            shares_of(of(cells, **reader), name, ("depth", depths), ("length", lengths)),
        )
        for reader in distinct(cells, READER)
        for name in FIGURES
    ]
    plot_heat_maps(maps, path, row_name="depth", column_name="length")
