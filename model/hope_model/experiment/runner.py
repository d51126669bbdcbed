"""Making one run: tune its learning rate, train it, measure it, write its result. Every step resumes."""

import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hope_model.errors import ExperimentError, TrainError
from hope_model.experiment.data import ExperimentData, heldout_rows, prepare
from hope_model.experiment.measure import Rows, evaluate, kit_files
from hope_model.experiment.plan import ALL, Run
from hope_model.experiment.results import Result, read_results, require_same, write_result
from hope_model.experiment.settings import ExperimentSettings, differences, fingerprint
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer
from hope_model.train.log import read_log
from hope_model.train.processes import training_device
from hope_model.train.resume import load_weights
from hope_model.train.settings import TrainSettings
from hope_model.train.trainer import train

POINTS = 128
"""Points of a run's loss curve, each the mean of the steps since the one before."""
FURTHER = 4
"""Rates that are tried beyond those of the settings, at most."""


@dataclass(frozen=True)
class Places:
    """Folders: the pre-training sets, the evaluation kit, what a run needs while it is made, results.

    data: None where the text in ``work`` has been split before.
    """

    data: Path | None
    kit: Path
    work: Path
    results: Path


class Experiment:
    """The experiment in its folders; opening it makes sure that all there was made with the same settings."""

    def __init__(
        self,
        places: Places,
        settings: ExperimentSettings,
        tokenizer: Tokenizer,
        say: Callable[[str], None],
    ) -> None:
        """Raises ExperimentError for a folder of other settings; DataError for text that cannot be read."""
        self.places, self.settings, self.tokenizer, self._say = places, settings, tokenizer, say
        kit = kit_files(places.kit)
        with _locked(places.work / "prepare.lock", wait=True):
            self.data: ExperimentData = prepare(places.data, places.work / "text", settings)
            self.fingerprint = fingerprint(settings, tokenizer.sha256(), {**self.data.files, **kit})
            self._claim_work()
        self.results()
        self._heldout: Rows | None = None

    def results(self) -> dict[str, Result]:
        """The finished runs; ExperimentError for broken ones and for those of other settings."""
        found = read_results(self.places.results)
        require_same(self.places.results, found, self.fingerprint)
        return found

    def make(self, run: Run) -> bool:
        """Make ``run`` unless it is finished or another process has it in hand; whether it was made here."""
        folder = self.places.work / "runs" / run.name
        with _locked(folder / "lock", wait=False) as free:
            if not free or run.name in self.results():
                return False
            rate, tuning = self._rate(run)
            settings = self.settings.training(run, rate, tuning=False)
            self._say(f"{run.name}: training at {rate:g}")
            train(settings, self.data.train, self.tokenizer, folder / "train")
            self._say(f"{run.name}: measuring")
            write_result(self.places.results, run, self._result(run, settings, folder, tuning))
            self._say(f"{run.name}: done")
            return True

    def _rate(self, run: Run) -> tuple[float, dict[str, Any]]:
        """The tuned rate, and the loss of each that was tried; another run's where the plan says so."""
        base = ALL[run.rate_of] if run.rate_of else run
        done = self.results().get(base.name)
        if done is not None:
            return float(done["learning_rate"]), done["tuning"]
        with _locked(self.places.work / "runs" / base.name / "tuning.lock", wait=True):
            best, losses = tuned(self.settings.rates, lambda rate: self._try(base, rate))
        if best is None:
            raise ExperimentError(f"{base.name}: expected a rate of {tuple(losses)} to train, found none")
        return best, {f"{rate:g}": loss for rate, loss in losses.items()}

    def _try(self, run: Run, rate: float) -> float | None:
        """Mean loss of the last quarter of the tuning steps; None when training left the finite numbers."""
        folder = self.places.work / "runs" / run.name / f"tune-{rate:g}"
        settings = self.settings.training(run, rate, tuning=True)
        try:
            train(settings, self.data.train, self.tokenizer, folder)
        except TrainError as error:
            if "finite" not in str(error):
                raise
            return None
        losses = [record["loss"] for record in steps_of(folder, settings.steps(processes=1))]
        last = losses[-max(1, len(losses) // 4) :]
        loss: float = sum(last) / len(last)
        self._say(f"{run.name}: {rate:g} gives {loss:.4f}")
        return loss

    def _result(self, run: Run, settings: TrainSettings, folder: Path, tuning: dict[str, Any]) -> Result:
        model = Hope(settings.hope_config())
        model.load_state_dict(load_weights(folder / "train"))
        model.requires_grad_(False).eval().to(training_device())
        if self._heldout is None:
            self._heldout = heldout_rows(self.data, self.tokenizer, self.settings)
        started = time.process_time()
        figures = evaluate(model, self.tokenizer, self._heldout, self.places.kit, self.settings.evaluation)
        log = steps_of(folder / "train", settings.steps(processes=1))
        cpu = sum(record["cpu_seconds"] for record in log)
        return {
            "run": run.to_dict(),
            "fingerprint": self.fingerprint,
            "learning_rate": settings.learning_rate,
            "tuning": tuning,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "mlp_width": model.config.mlp_width,
            "state_bytes": model.state_spec.row_bytes,
            "loss": thinned([(record["tokens"], record["loss"]) for record in log], POINTS),
            "evaluation": figures,
            "seconds": {
                "training": sum(record["seconds"] for record in log),
                "training_cpu": cpu,
                "evaluation_cpu": time.process_time() - started,
            },
            "tokens_per_cpu_s": len(log) * settings.rows * settings.window / cpu,
            "device": training_device().type,
            "machine": machine(),
        }

    def _claim_work(self) -> None:
        """Note the settings in the work folder, or compare them with those noted there."""
        path = self.places.work / "experiment.json"
        if not path.exists():
            scratch = path.with_name(f".{path.name}")
            scratch.write_text(json.dumps(self.fingerprint, indent=1) + "\n", encoding="utf-8")
            scratch.replace(path)
            return
        try:
            changed = differences(json.loads(path.read_text(encoding="utf-8")), self.fingerprint)
        except (OSError, ValueError, AttributeError) as error:
            raise ExperimentError(f"{path}: expected the settings of the runs here, found {error}") from error
        if changed:
            raise ExperimentError(
                f"{path}: the runs here were started with other settings, nothing was run or written; "
                "use another --work folder: " + "; ".join(changed)
            )


def tuned(
    rates: Sequence[float], loss_at: Callable[[float], float | None]
) -> tuple[float | None, dict[float, float | None]]:
    """The rate of the lowest loss and every loss tried, None for one that is not finite.

    ``rates`` ascend by equal factors. While the best is at an end, that end is moved out by the factor,
    ``FURTHER`` times at most.
    """
    losses = {rate: loss_at(rate) for rate in rates}
    factor = rates[1] / rates[0] if len(rates) > 1 else 1.0
    while True:
        finite = {rate: loss for rate, loss in losses.items() if loss is not None}
        best = min(finite, key=lambda rate: finite[rate], default=None)
        beyond = {min(losses): min(losses) / factor, max(losses): max(losses) * factor}
        if best not in beyond or factor == 1.0 or len(losses) == len(rates) + FURTHER:
            return best, dict(sorted(losses.items()))
        losses[beyond[best]] = loss_at(beyond[best])


def steps_of(folder: Path, steps: int) -> list[dict[str, Any]]:
    """The log of a training run that is at its end, after so many steps.

    Raises ExperimentError if any of them is lost, TrainError if the log is broken.
    """
    path = folder / "log.jsonl"
    records = read_log(path)
    if [record["step"] for record in records] != list(range(1, steps + 1)):
        raise ExperimentError(
            f"{path}: expected {steps} steps in order, found {len(records)} records; remove {folder}"
        )
    return records


def thinned(points: list[tuple[int, float]], count: int) -> list[list[float]]:
    """``[tokens, mean loss since the point before]``, at most ``count`` of them."""
    size = -(-len(points) // count)
    parts = [points[at : at + size] for at in range(0, len(points), size)]
    return [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 5)] for part in parts]


def machine() -> str:
    """GPU, if it trains there, processor, where the system tells it, cores, threads and torch."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{found[1] if found else platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file that ends with the process; False when another one has it and this does not wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
