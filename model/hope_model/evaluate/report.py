"""The stream evaluation as files: JSON, a Markdown table, a plot."""

import json
from collections.abc import Sequence
from pathlib import Path

from hope_model.evaluate.plot import new_figure
from hope_model.evaluate.stream import StreamLosses

_COLUMNS = ("carried", "fresh", "frozen", "carried_minus_fresh", "gain_of_learning")
_SEGMENT = 2_048


def write_report(results: Sequence[StreamLosses], directory: Path) -> str:
    """Write ``stream.json``, ``stream.md`` and, with matplotlib, ``stream.png``; returns the table."""
    directory.mkdir(parents=True, exist_ok=True)
    table = markdown(results)
    (directory / "stream.md").write_text(table, encoding="utf-8")
    summaries = {result.name: result.summary() for result in results}
    (directory / "stream.json").write_text(json.dumps(summaries, indent=2) + "\n", encoding="utf-8")
    _plot(results, directory / "stream.png")
    return table


def markdown(results: Sequence[StreamLosses]) -> str:
    """Nats per token on the judged stretch, one row a stream, and their mean."""
    rows = [(result.name, result.summary()) for result in results]
    columns = [column for column in _COLUMNS if column in rows[0][1]]
    mean = {column: sum(row[column] for _, row in rows) / len(rows) for column in columns}
    head = " | ".join(column.replace("_", " ") for column in columns)
    lines = [f"| stream | {head} |", "|---" * (1 + len(columns)) + "|"]
    for name, row in [*rows, ("mean", mean)]:
        lines.append(f"| {name} | " + " | ".join(f"{row[column]:.4f}" for column in columns) + " |")
    return "\n".join(lines) + "\n"


def _plot(results: Sequence[StreamLosses], path: Path) -> None:
    figure = new_figure(8, 2.6 * len(results))
    if figure is None:
        return
    axes = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    for axis, result in zip(axes, results, strict=True):
        for label, losses, offset in (
            ("carried", result.carried, 0),
            ("CMS frozen", result.frozen, 0),
            ("fresh", result.fresh, result.settings.judged_from),
        ):
            if losses is None:
                continue
            means = [float(part.mean()) for part in losses.split(_SEGMENT)]
            positions = [(offset + (i + 0.5) * _SEGMENT) / 1000 for i in range(len(means))]
            axis.plot(positions, means, label=label, linewidth=1.2)
        axis.set(title=result.name, ylabel="nats per token")
        axis.grid(alpha=0.3)
    axes[0].legend()
    axes[-1].set_xlabel("position in the stream (thousand tokens)")
    figure.savefig(path, dpi=110)
