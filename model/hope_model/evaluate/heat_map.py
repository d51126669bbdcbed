"""Shares by two things at once, as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hope_model.evaluate.plot import new_figure


@dataclass(frozen=True)
class HeatMap:
    """Shares from 0 to 1; ``shares[row][column]``, None where nothing was measured."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float | None]]


def shares_of(
    cells: Sequence[Mapping[str, Any]],
    figure: str,
    row: tuple[str, Sequence[int]],
    column: tuple[str, Sequence[int]],
) -> list[list[float | None]]:
    """``figure`` of the cells by two of their fields, each with the values that it takes."""
    (row_name, rows), (column_name, columns) = row, column
    found = {(cell[row_name], cell[column_name]): cell[figure] for cell in cells}
    return [[found.get((one, other)) for other in columns] for one in rows]


def plot_heat_maps(maps: Sequence[HeatMap], path: Path, *, row_name: str, column_name: str) -> None:
    """All maps in one picture, three beside each other; nothing without matplotlib."""
    across = min(3, len(maps))
    down = -(-len(maps) // across)
    figure = new_figure(4.2 * across, 3.4 * down)
    if figure is None:
        return
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, each in zip(axes, maps, strict=False):
        values = [[float("nan") if share is None else share for share in row] for row in each.shares]
        axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for row, line in enumerate(each.shares):
            for column, share in enumerate(line):
                if share is not None:
                    colour = "black" if share > 0.6 else "white"
                    axis.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=7)
        axis.set_xticks(range(len(each.columns)), each.columns)
        axis.set_yticks(range(len(each.rows)), each.rows)
        axis.set_title(each.title, fontsize=9)
        axis.set(xlabel=column_name, ylabel=row_name)
    for axis in axes[len(maps) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=110)
