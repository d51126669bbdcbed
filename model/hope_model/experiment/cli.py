"""``hope experiment``: train and measure every system, as many as fit; report what came of it."""

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

from hope_model.errors import ConfigError, TrainError
from hope_model.experiment.plan import chosen, schedule

if TYPE_CHECKING:
    from hope_model.experiment.plan import Run
    from hope_model.experiment.runner import Experiment

RESULTS = Path("model/experiments/results")
_RUN = (
    "Tunes, trains and measures every run of the plan that has no result yet, in the plan's order. Stopped "
    "at any time, the same command goes on. A finished run is one JSON file in --results."
)


def add_parser(subparsers: Any) -> None:
    """Mount ``hope experiment`` on the main command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "experiment", help="train and compare all systems"
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    run = kinds.add_parser("run", help="make the runs that have no result yet", description=_RUN)
    run.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of the core mixture's sets; not needed where --work already has the split text",
    )
    run.add_argument("--kit", type=Path, required=True, metavar="DIR", help="folder of the evaluation kit")
    run.add_argument("--work", type=Path, required=True, metavar="DIR", help="for checkpoints and split text")
    _add_results(run)
    run.add_argument("--only", nargs="+", metavar="NAME", help="these runs alone, in this order")
    run.add_argument("--minutes", type=float, help="stop after so long, as Ctrl-C does")
    run.add_argument("--jobs", type=int, default=1, help="processes at once (default: %(default)s)")
    run.add_argument("--threads", type=int, default=1, help="torch threads of each (default: %(default)s)")
    run.set_defaults(run_command=run_runs)
    listing = kinds.add_parser(
        "list", help="every run of the plan: its loss, or the core hours that it takes"
    )
    _add_results(listing)
    listing.set_defaults(run_command=run_list)
    report = kinds.add_parser("report", help="write the report and its pictures from the results")
    _add_results(report)
    report.add_argument("--out", type=Path, default=Path("model/EXPERIMENTS.md"), metavar="FILE")
    report.set_defaults(run_command=run_report)
    compare = kinds.add_parser("compare", help="runs made again beside these results, by their noise")
    compare.add_argument("other", type=Path, help="folder of the results made again")
    _add_results(compare)
    compare.set_defaults(run_command=run_compare)


def run_runs(args: argparse.Namespace) -> int:
    """Make runs until none is left or the time is up; returns the exit code, 130 when stopped, and that of
    another job which failed.
    """
    import torch

    from hope_model.checkpoint import resolve
    from hope_model.experiment.runner import Experiment, Places
    from hope_model.experiment.settings import ExperimentSettings
    from hope_model.tokenizer import Tokenizer

    for name in ("minutes", "jobs", "threads"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: expected a positive number, found {value}")
    only = None if args.only is None else chosen(args.only)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.load(resolve("hope-tiny") / "tokenizer.json")
    places = Places(data=args.data, kit=args.kit, work=args.work, results=args.results)
    try:
        with _time_limit(args.minutes):
            experiment = Experiment(places, ExperimentSettings(), tokenizer, say=_say)
            with _helpers(args) as helpers:
                make_all(experiment, only)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on")
        return 130
    return next((helper.returncode for helper in helpers if helper.returncode), 0)


def run_list(args: argparse.Namespace) -> int:
    """Print one line a run; returns the exit code."""
    from hope_model.experiment.cost import core_hours
    from hope_model.experiment.figures import losses_of
    from hope_model.experiment.results import read_results
    from hope_model.experiment.settings import ExperimentSettings

    losses = losses_of(read_results(args.results))
    for one in schedule(losses):
        cost = f"{core_hours([one], ExperimentSettings()):.1f} core hours"
        print(f"{one.name:24} {f'{losses[one.name]:.4f} nats' if one.name in losses else cost}")
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Write the report; returns the exit code."""
    from hope_model.experiment.report import write_report

    write_report(args.results, args.out)
    _say(f"{args.out} written")
    return 0


def run_compare(args: argparse.Namespace) -> int:
    """Print the losses side by side; returns 1 when a run lies outside of the noise, or there is none."""
    from hope_model.experiment.figures import repeated
    from hope_model.experiment.results import read_results

    rows = repeated(read_results(args.results), read_results(args.other))
    for row in rows:
        print(row.text())
    return 0 if rows and all(row.within for row in rows) else 1


def make_all(experiment: Experiment, only: tuple[Run, ...] | None) -> None:
    """Make every run that has no result and that no other process has in hand.

    Raises:
        TrainError: a run left the finite numbers; the others have been made by then.
    """
    from hope_model.experiment.figures import losses_of

    tried: set[str] = set()
    failed: list[TrainError] = []
    while True:
        results = experiment.results()
        runs = schedule(losses_of(results)) if only is None else only
        left = [run for run in runs if run.name not in results and run.name not in tried]
        if not left:
            break
        tried.add(left[0].name)
        try:
            experiment.make(left[0])
        except TrainError as error:
            failed.append(error)
            _say(f"{left[0].name}: {error}")
    if failed:
        raise failed[0]


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="finished runs (default: %(default)s)"
    )


@contextmanager
def _time_limit(minutes: float | None) -> Iterator[None]:
    """After ``minutes`` this process gets the signal that Ctrl-C sends: a trainer saves and stops."""
    if minutes is None:
        yield
        return
    # A shell starts what it puts in the background with Ctrl-C ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _helpers(args: argparse.Namespace) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The other ``--jobs``: processes with the same arguments, which are waited for at the end."""
    command = [sys.executable, "-m", "hope_model.experiment", "run", "--threads", str(args.threads)]
    for name in ("data", "kit", "work", "results", "minutes"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name}", str(value)]
    if args.only is not None:
        command += ["--only", *args.only]
    others = [subprocess.Popen(command) for _ in range(args.jobs - 1)]
    try:
        yield others
    except KeyboardInterrupt:
        for other in others:
            other.send_signal(signal.SIGINT)
        raise
    finally:
        for other in others:
            other.wait()


def _say(text: str) -> None:
    print(text, flush=True)
