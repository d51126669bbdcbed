"""``hope experiment``: train and measure every system, as many as fit, and write the report."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hope_model.errors import ConfigError
from hope_model.experiment.plan import chosen, schedule

if TYPE_CHECKING:
    from hope_model.experiment.plan import Run
    from hope_model.experiment.results import Result
    from hope_model.experiment.runner import Experiment

_DESCRIPTION = (
    "Trains and measures every system of the plan that has no result yet, in the plan's order. Stopped at any "
    "time, the same command goes on. A finished run is one JSON file in --results."
)


def add_parser(subparsers: Any) -> None:
    """Mount ``hope experiment`` on the main command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "experiment", help="train and compare all systems", description=_DESCRIPTION
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the core mixture")
    parser.add_argument("--kit", type=Path, required=True, metavar="DIR", help="folder of the evaluation kit")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="checkpoints and split text")
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="finished runs, model/experiments/results"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these runs alone, in this order")
    parser.add_argument("--minutes", type=float, help="stop after so long, as Ctrl-C does")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="say what is finished and what comes, and end")
    parser.set_defaults(run_command=run)


def run(args: argparse.Namespace) -> int:
    """Make runs until none is left or the time is up; returns the exit code, 130 when stopped."""
    import torch

    from hope_model.checkpoint import resolve
    from hope_model.experiment.runner import Experiment, Places
    from hope_model.experiment.settings import ExperimentSettings
    from hope_model.tokenizer import Tokenizer

    for name in ("minutes", "jobs", "threads"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: expected a positive number, found {value}")
    only = chosen(args.only) if args.only else None
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.load(resolve("hope-tiny") / "tokenizer.json")
    places = Places(data=args.data, kit=args.kit, work=args.work, results=args.results)
    experiment = Experiment(places, ExperimentSettings(), tokenizer, say=_say)
    if args.list:
        print("\n".join(_listed(experiment.results(), only)))
        return 0
    with _helpers(args.jobs - 1):
        try:
            with _time_limit(args.minutes):
                make_all(experiment, only)
        except KeyboardInterrupt:
            _say("stopped; the same command goes on")
            return 130
    return 0


def make_all(experiment: Experiment, only: tuple[Run, ...] | None) -> None:
    """Make every run that has no result and that no other process has in hand."""
    tried: set[str] = set()
    while True:
        results = experiment.results()
        runs = schedule(heldout_losses(results)) if only is None else only
        left = [run for run in runs if run.name not in results and run.name not in tried]
        if not left:
            return
        tried.add(left[0].name)
        experiment.make(left[0])


def heldout_losses(results: dict[str, Result]) -> dict[str, float]:
    """What the best systems are chosen by."""
    return {name: result["evaluation"]["heldout"]["loss"] for name, result in results.items()}


def _listed(results: dict[str, Result], only: tuple[Run, ...] | None) -> Iterator[str]:
    losses = heldout_losses(results)
    for one in schedule(losses) if only is None else only:
        yield f"{one.name:24} {f'{losses[one.name]:.4f} nats' if one.name in losses else 'not run yet'}"


@contextmanager
def _time_limit(minutes: float | None) -> Iterator[None]:
    """After ``minutes`` this process gets the signal that Ctrl-C sends: a trainer saves and stops."""
    if minutes is None:
        yield
        return
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _helpers(count: int) -> Iterator[None]:
    """So many processes more with this process's arguments, which are waited for at the end."""
    command = [sys.executable, "-m", "hope_model.experiment", *sys.argv[2:], "--jobs", "1"]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.wait()


def _say(text: str) -> None:
    print(text, flush=True)
