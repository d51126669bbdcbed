"""Needles as files: JSON, a Markdown table, heat maps of length and depth."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hope_model.evaluate.heat_map import HeatMap, plot_heat_maps
from hope_model.evaluate.ledger import Ledger, Record, of
from hope_model.evaluate.means import Mean, mean_of
from hope_model.evaluate.needle import CHANCE
from hope_model.evaluate.tables import about_lines, markdown_table

FIGURES = ("likeliest", "greedy")
"""The right value is the likeliest of eight; the free answer holds it."""


def write_needles(ledger: Ledger) -> str:
    """Write ``needle.json``, ``needle.md`` and, with matplotlib, ``needle.png``; returns the Markdown."""
    cells = summary(ledger.records)
    content = {**ledger.settings, "chance": CHANCE, "cells": cells, "records": ledger.records}
    (ledger.directory / "needle.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = markdown(ledger.settings, ledger.records)
    (ledger.directory / "needle.md").write_text(text, encoding="utf-8")
    _plot(ledger.records, ledger.directory / "needle.png")
    return text


def summary(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Shares with standard errors of every model, condition, length and depth."""
    places = dict.fromkeys(tuple(each[name] for name in _PLACE) for each in records)
    cells = []
    for place in places:
        named = dict(zip(_PLACE, place, strict=True))
        means = _means(of(records, **named))
        cells.append(
            named
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
    for model, rule, condition in _readers(records):
        own = of(records, model=model, rule=rule, condition=condition)
        for length in sorted({each["length"] for each in own}):
            means = _means(of(own, length=length))
            shares = [str(means[name]) for name in FIGURES]
            rows.append([model, rule, condition, str(length), str(means["greedy"].count), *shares])
    head = ["model", "rule", "learning", "length", "needles", "likeliest", "free answer"]
    return "\n".join(lines + markdown_table(head, rows)) + "\n"


_PLACE = ("model", "rule", "condition", "length", "depth")


def _means(records: Sequence[Record]) -> dict[str, Mean]:
    return {name: mean_of([float(each[name]) for each in records]) for name in FIGURES}


def _readers(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((each["model"], each["rule"], each["condition"]) for each in records))


def _plot(records: Sequence[Record], path: Path) -> None:
    lengths = sorted({each["length"] for each in records})
    depths = sorted({each["depth"] for each in records})
    maps = [
        HeatMap(
            f"{model}, learning {condition}: {name}",
            [f"{depth}%" for depth in depths],
            [str(length) for length in lengths],
            [[_share(records, name, place) for place in line] for line in _grid(reader, depths, lengths)],
        )
        for reader in _readers(records)
        for model, _, condition in [reader]
        for name in FIGURES
    ]
    plot_heat_maps(maps, path, row_name="depth", column_name="length")


def _grid(
    reader: tuple[str, str, str], depths: Sequence[int], lengths: Sequence[int]
) -> list[list[dict[str, object]]]:
    return [
        [dict(zip(_PLACE, (*reader, length, depth), strict=True)) for length in lengths] for depth in depths
    ]


def _share(records: Sequence[Record], name: str, place: dict[str, object]) -> float | None:
    found = of(records, **place)
    return _means(found)[name].value if found else None
