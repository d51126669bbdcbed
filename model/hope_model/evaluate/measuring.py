"""Running a measurement of sessions: each model in turn, every finding kept, a report at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from hope_model.convert.progress import Progress, console_progress
from hope_model.evaluate.ledger import Ledger
from hope_model.evaluate.sessions.asking import Question, Reply, Subject
from hope_model.evaluate.sessions.reading import read_and_ask, require_conditions
from hope_model.evaluate.subject import Find
from hope_model.evaluate.subjects import Named, OpenServer, named_subjects

Measure = Callable[[Named, Ledger, Progress], None]
"""Adds to the ledger what it does not yet hold of a model."""


class Asked(Protocol):
    """One session: it reads ``context`` and is asked. key: names it in the records."""

    @property
    def context(self) -> Sequence[int]: ...
    @property
    def question(self) -> Question: ...
    @property
    def key(self) -> Mapping[str, int]: ...
    def found(self, reply: Reply) -> Mapping[str, object]:
        """What the reply says, for the records."""
        ...


ItemsOf = Callable[[Subject], Iterator[Asked]]


def run(
    args: argparse.Namespace,
    name: str,
    about: Mapping[str, Any],
    measure: Measure,
    write: Callable[[Ledger], str],
    *,
    find: Find | None,
    open_server: OpenServer | None,
) -> int:
    """Print the report and write it; returns the exit code.

    Args:
        args: those of ``subjects.add_subjects``.
        about: what else makes it another measurement.
        write: writes the report, and returns it.
    """
    with named_subjects(args, find, open_server) as subjects, console_progress() as progress:
        settings = {
            "models": {each.name: each.weights for each in subjects},
            "origin": args.origin,
            "conditions": args.conditions,
            **({} if args.quantize == "none" else {"quantize": args.quantize}),
            **about,
        }
        with Ledger(args.out, name, settings) as ledger:
            for each in subjects:
                measure(each, ledger, progress)
            print(write(ledger))
    return 0


def ask_items(
    items_of: ItemsOf, conditions: Sequence[str], named: Named, ledger: Ledger, progress: Progress
) -> None:
    """A new session for every item and condition."""
    with named.open() as subject:
        require_conditions(subject, named.name, conditions)
        items = list(items_of(subject))
        for number, item in enumerate(items):
            for condition in conditions:
                key = {"model": named.name, "rule": subject.rule, "condition": condition, **item.key}
                if ledger.find(**key) is None:
                    progress(f"{named.name}: questions", number, len(items))
                    reply = read_and_ask(subject, condition, item.context, item.question)
                    ledger.add({**key, **item.found(reply)})
