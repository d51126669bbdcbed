"""What a run tells: a progress bar, a JSONL log, a picture of the loss."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hope_model.errors import TrainError

SMOOTHING = 0.98


class TrainLog:
    """Writes one JSON line a step and keeps the bar up to date; silent on all processes but the first.

    Lines of steps after ``done``, which are about to be run again, are dropped from the log first.
    Without a terminal a line is printed every 50 steps instead of the bar.
    """

    def __init__(self, directory: Path, *, steps: int, done: int, tokens_per_step: int, rank: int) -> None:
        self._path = directory / "log.jsonl"
        self._tokens_per_step = tokens_per_step
        self._steps = steps
        self._quiet = rank > 0
        if not self._quiet:
            _keep_until(self._path, done)
        self._console = Console()
        self._smooth: float | None = None
        self._started, self._first = time.perf_counter(), done
        self._last, self._last_cpu = self._started, time.process_time()
        self._bar = Progress(
            TextColumn("{task.completed}/{task.total} steps"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=self._quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, completed=done, loss=float("nan"), rate=0.0)

    def __enter__(self) -> "TrainLog":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int, **figures: float) -> None:
        """Record step number ``step`` (the first is 1); ``figures`` has ``loss`` in nats per token."""
        if self._quiet:
            return
        loss = figures["loss"]
        self._smooth = loss if self._smooth is None else SMOOTHING * self._smooth + (1 - SMOOTHING) * loss
        now, cpu = time.perf_counter(), time.process_time()
        rate = (step - self._first) * self._tokens_per_step / (now - self._started)
        record: dict[str, Any] = {
            "step": step,
            "tokens": step * self._tokens_per_step,
            "tokens_per_s": rate,
            "seconds": now - self._last,
            "cpu_seconds": cpu - self._last_cpu,
            **figures,
        }
        self._last, self._last_cpu = now, cpu
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._bar.update(self._task, completed=step, loss=self._smooth, rate=rate)
        if not self._console.is_terminal and step % 50 == 0:
            left_s = (self._steps - step) * self._tokens_per_step / rate
            self._console.print(
                f"step {step}/{self._steps} loss {self._smooth:.3f} {rate:,.0f} tokens/s, {left_s:.0f} s left"
            )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of ``log.jsonl``, one a step; a last line that a kill has cut short is left out.

    Raises:
        TrainError: other content than what a run has written there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        if not all(isinstance(record, dict) and "step" in record for record in records):
            raise ValueError("a record without a step")
        return records
    except ValueError as error:
        raise TrainError(f"{path}: expected a record a line, found {error}; remove {path.parent}") from error


def _keep_until(path: Path, done: int) -> None:
    kept = [record for record in read_log(path) if record["step"] <= done]
    scratch = path.with_name(f".{path.name}")
    scratch.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    scratch.replace(path)


def plot_loss(directory: Path) -> Path | None:
    """Draw ``loss.png`` from the log; None when that is empty or matplotlib (extra ``plot``) is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    records = read_log(directory / "log.jsonl")
    if not records:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    tokens = [record["tokens"] / 1e6 for record in records]
    losses = [record["loss"] for record in records]
    smooth = [losses[0]]
    for loss in losses[1:]:
        smooth.append(SMOOTHING * smooth[-1] + (1 - SMOOTHING) * loss)
    axes.plot(tokens, losses, linewidth=0.5, alpha=0.4, label="step")
    axes.plot(tokens, smooth, linewidth=1.5, label="smoothed")
    axes.set(xlabel="tokens (millions)", ylabel="nats per token", title=directory.name)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(directory / "loss.png", dpi=120)
    return directory / "loss.png"
