"""``hope eval continual``: classes in groups, one after the other, and how much of the first ones is kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hope_model.evaluate.subjects import add_subjects, file_named

if TYPE_CHECKING:
    from hope_model.convert.progress import Progress
    from hope_model.evaluate.continual.data import ContinualSettings, StreamTask
    from hope_model.evaluate.ledger import Ledger
    from hope_model.evaluate.subject import Find
    from hope_model.evaluate.subjects import Named, OpenServer

SIZES = ("tasks", "classes", "examples", "questions", "context_tokens")

_DESCRIPTION = (
    "A session is told examples of some classes, then of others, and after each group is asked about all "
    "classes: in branches that teach nothing. With learning on, off, and with examples in the prompt. Over "
    "--url it is a user of the API: sessions, learn on and off, forks for the questions."
)


def add_parser(kinds: Any, find: Find | None, open_server: OpenServer | None) -> None:
    """Mount ``continual`` on ``hope eval``; arguments as its ``add_parser`` takes them."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "continual",
        help="class-incremental streams: accuracy at the end, forgetting",
        description=_DESCRIPTION,
    )
    parser.add_argument("file", type=Path, help=".jsonl of text and label: what is told")
    parser.add_argument(
        "--test", type=Path, metavar="FILE", help="what is asked (default: other rows of the same file)"
    )
    add_subjects(parser, "continual", ("on", "off", "context"))
    parser.add_argument(
        "--figures",
        nargs="+",
        choices=("likeliest", "calibrated", "greedy"),
        default=["likeliest", "calibrated", "greedy"],
        help="the likeliest class, as it is or beside a query that says nothing, which over --url takes a "
        "fork for each class and question; what is said freely (default: all)",
    )
    parser.add_argument("--tasks", type=int, default=5, help="groups of classes (default: %(default)s)")
    parser.add_argument("--classes", type=int, help="of all tasks together, drawn by seed (default: all)")
    parser.add_argument("--examples", type=int, default=10, help="told of each class (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=5, help="asked of each class (default: %(default)s)")
    parser.add_argument(
        "--context-tokens", type=int, default=1024, help="of examples in a prompt (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one stream each (default: 0)")
    parser.set_defaults(run_command=partial(run_continual, find=find, open_server=open_server))


def run_continual(
    args: argparse.Namespace, find: Find | None = None, open_server: OpenServer | None = None
) -> int:
    """Print the report and write it; returns the exit code."""
    from hope_model.evaluate.continual.data import ContinualSettings
    from hope_model.evaluate.continual.report import write_continual
    from hope_model.evaluate.measuring import run

    sizes = ContinualSettings(**{name: getattr(args, name) for name in SIZES})
    streams = _streams(args, sizes)
    classes = sum(len(task.classes) for task in next(iter(streams.values())))
    about = {
        "file": file_named(args.file),
        "test": None if args.test is None else file_named(args.test),
        **{name: getattr(args, name) for name in (*SIZES, "figures", "seeds")},
    }
    measure = partial(_measure, args, streams, sizes)
    write = partial(write_continual, tasks=sizes.tasks, classes=classes)
    return run(args, "continual", about, measure, write, find=find, open_server=open_server)


def _measure(
    args: argparse.Namespace,
    streams: dict[int, list[StreamTask]],
    sizes: ContinualSettings,
    named: Named,
    ledger: Ledger,
    progress: Progress,
) -> None:
    from hope_model.evaluate.continual.stream import ContinualStream, renamed

    with named.open() as subject:
        for seed, tasks in streams.items():
            stream = ContinualStream(subject, tasks, figures=args.figures, seed=seed)
            for condition in args.conditions:
                key = {"model": named.name, "rule": subject.rule, "condition": condition, "seed": seed}
                done = [task for task in range(len(tasks)) if ledger.find(**key, task=task) is not None]
                if len(done) == len(tasks):
                    continue
                step = f"{named.name}, learning {condition}, seed {seed}"
                for row in stream.rows(
                    condition,
                    context_tokens=sizes.context_tokens,
                    done=done,
                    progress=partial(renamed, progress, step),
                ):
                    ledger.add(key | {"task": row.task, "right": row.right})


def _streams(args: argparse.Namespace, sizes: ContinualSettings) -> dict[int, list[StreamTask]]:
    from hope_model.errors import ConfigError
    from hope_model.evaluate.continual.data import parse_example, stream_tasks
    from hope_model.evaluate.rows import parse_rows

    for name in ("seeds", "conditions", "figures"):
        values: Sequence[object] = getattr(args, name)
        if len(set(values)) < len(values):
            raise ConfigError(f"{name}: expected each once, found {' '.join(map(str, values))}")
    told = parse_rows(args.file, parse_example)
    asked = None if args.test is None else parse_rows(args.test, parse_example)
    return {seed: stream_tasks(told, asked, sizes, seed) for seed in args.seeds}
