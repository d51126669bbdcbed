"""The report's pictures, where matplotlib (extra ``plot``) is installed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hope_model.evaluate.plot import new_figure
from hope_model.experiment.figures import Results, finished_systems, loss_of, position_losses, title_of

DPI = 80
SIZE = (7.0, 4.2)
COLOURS = 64
SMOOTHED = 8
"""So many points of a loss curve are drawn as their mean."""


def draw_all(results: Results, folder: Path) -> list[str]:
    """Write every picture for which there are figures; their names. None without matplotlib."""
    if not finished_systems(results):
        return []
    for name, draw in _PICTURES.items():
        figure = new_figure(*SIZE)
        if figure is None:
            return []
        axes = figure.subplots()
        axes.set_prop_cycle(color=_colours())
        draw(results, axes)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=2)
        folder.mkdir(parents=True, exist_ok=True)
        _save(figure, folder / name)
    return list(_PICTURES)


def _colours() -> Any:
    """One for each of twenty systems."""
    from matplotlib import colormaps

    return colormaps["tab20"].colors  # type: ignore[attr-defined]


def _save(figure: Any, path: Path) -> None:
    """As a picture of few colours, which is a third as large."""
    from PIL import Image

    with io.BytesIO() as whole:
        figure.savefig(whole, dpi=DPI)
        Image.open(whole).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def _loss_by_tokens(results: Results, axes: Any) -> None:
    for name in finished_systems(results):
        points = results[name]["loss"]
        losses = [loss for _, loss in points]
        recent = [losses[max(0, at - SMOOTHED + 1) : at + 1] for at in range(len(losses))]
        means = [sum(part) / len(part) for part in recent]
        axes.plot([tokens / 1e6 for tokens, _ in points], means, linewidth=1, label=title_of(name))
    axes.set(xlabel="tokens of training (millions)", ylabel="nats per token, a mean of the last points")


def _loss_by_position(results: Results, axes: Any) -> None:
    for name in finished_systems(results):
        points = position_losses(results[name])
        axes.plot(
            [end for end, _ in points],
            [loss for _, loss in points],
            marker="o",
            markersize=3,
            label=title_of(name),
        )
    axes.set(xlabel="position in the stream (tokens)", ylabel="nats per token", xscale="log")


def _quality_by_bytes(results: Results, axes: Any) -> None:
    for name in finished_systems(results):
        own = results[name]
        axes.scatter([own["state_bytes"] / 1024], [loss_of(own)], label=title_of(name))
    axes.set(xlabel="state of a session (KiB)", ylabel="held-out nats per token", xscale="log")


def _update_spectrum(results: Results, axes: Any) -> None:
    for name in finished_systems(results):
        levels = [level for level in results[name]["evaluation"]["levels"] if level["drift"]]
        axes.plot(
            [level["frequency"] for level in levels], [level["drift"] for level in levels],
            marker="o", linewidth=1, label=title_of(name),
        )  # fmt: skip
    axes.set(xlabel="writes per token", ylabel="drift, learned / initial norm", xscale="log", yscale="log")


_PICTURES: dict[str, Callable[[Results, Any], None]] = {
    "loss-by-tokens.png": _loss_by_tokens,
    "loss-by-position.png": _loss_by_position,
    "quality-by-bytes.png": _quality_by_bytes,
    "update-spectrum.png": _update_spectrum,
}
