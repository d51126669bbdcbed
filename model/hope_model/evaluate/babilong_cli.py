"""``hope eval babilong``: bAbI's questions about facts in a long text."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.subjects import add_subjects, file_named

if TYPE_CHECKING:
    from hope_model.evaluate.babilong import Item, Lead, Story
    from hope_model.evaluate.measuring import ItemsOf
    from hope_model.evaluate.sessions.asking import Subject
    from hope_model.evaluate.subject import Find
    from hope_model.evaluate.subjects import OpenServer

LENGTHS = (1_024, 2_048, 4_096)
LIMIT = 10

_DESCRIPTION = (
    "Facts in a long text, a question at its end, and the answers of its task to choose from: with learning "
    "on, off, and for pre-trained models with the whole text in sight. The rows hold whole texts (task, "
    "words, context, question, answer, facts), or bAbI's facts alone, to be hidden in the text of --haystack."
)


def add_parser(kinds: Any, find: Find | None, open_server: OpenServer | None) -> None:
    """Mount ``babilong`` on ``hope eval``; arguments as its ``add_parser`` takes them."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "babilong", help="bAbI's questions about facts in long text", description=_DESCRIPTION
    )
    parser.add_argument("file", type=Path, help=".jsonl of whole texts, or of bAbI's rows")
    add_subjects(parser, "babilong")
    parser.add_argument("--tasks", type=int, nargs="+", metavar="N", help="only these (default: all)")
    parser.add_argument(
        "--haystack", type=Path, metavar="FILE", help="text in which the facts of bAbI's rows are hidden"
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        help=f"with --haystack: tokens (default: {' '.join(map(str, LENGTHS))}); else texts of so many words",
    )
    parser.add_argument(
        "--limit", type=int, help=f"questions of each task and length (default: {LIMIT}; of whole texts: all)"
    )
    parser.add_argument(
        "--examples", type=Path, metavar="FILE", help="bAbI's rows, from which --shots are taken"
    )
    parser.add_argument(
        "--shots",
        type=int,
        default=0,
        help="solved examples that a session reads first (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which stories (default: %(default)s)")
    parser.set_defaults(run_command=partial(run_babilong, find=find, open_server=open_server))


def run_babilong(
    args: argparse.Namespace, find: Find | None = None, open_server: OpenServer | None = None
) -> int:
    """Print the report and write it; returns the exit code."""
    from hope_model.evaluate.babilong_report import write_babilong
    from hope_model.evaluate.measuring import ask_items, run

    items_of, about = _items(args)
    measure = partial(ask_items, items_of, args.conditions)
    return run(args, "babilong", about, measure, write_babilong, find=find, open_server=open_server)


def _items(args: argparse.Namespace) -> tuple[ItemsOf, dict[str, Any]]:
    """How the questions are made, and what names them in the results."""
    from hope_model.evaluate.babilong import Lead, answers_by_task, hidden_facts, whole_texts
    from hope_model.evaluate.haystack import Haystack, sentences
    from hope_model.evaluate.rows import read_file

    _check(args)
    stories, examples = _stories(args)
    answers = answers_by_task(stories, args.file.name)
    about = {
        "file": file_named(args.file),
        "tasks": sorted(answers),
        "lengths": args.lengths,
        "limit": args.limit,
        "shots": args.shots,
        "examples": None if args.examples is None else file_named(args.examples),
        "haystack": None if args.haystack is None else file_named(args.haystack),
        "seed": args.seed,
    }

    def lead(subject: Subject) -> Lead:
        return Lead(answers, subject.encode, examples=examples, shots=args.shots, seed=args.seed)

    if args.haystack is None:
        return lambda subject: whole_texts(stories, lead(subject), subject.encode, limit=args.limit), about
    text = read_file(args.haystack)
    lengths, limit = args.lengths or LENGTHS, args.limit or LIMIT

    def hidden(subject: Subject) -> Iterator[Item]:
        haystack = Haystack(args.haystack.name, subject.encode(sentences(text)))
        own = lead(subject)
        return hidden_facts(
            stories, haystack, own, subject.encode, lengths=lengths, limit=limit, seed=args.seed
        )

    return hidden, about | {"lengths": list(lengths), "limit": limit}


def _stories(args: argparse.Namespace) -> tuple[list[Story], list[Story]]:
    """The chosen rows of the file, and the examples."""
    from hope_model.evaluate.babilong import parse_story
    from hope_model.evaluate.rows import parse_rows

    stories = parse_rows(args.file, parse_story)
    tasks = sorted({story.task for story in stories})
    if unknown := sorted(set(args.tasks or tasks) - set(tasks)):
        raise DataError(f"{args.file.name}: expected tasks among {tasks}, found {unknown}")
    stories = [story for story in stories if story.task in (args.tasks or tasks)]
    if args.haystack is None:
        words = sorted({story.words for story in stories if story.words is not None})
        if not words:
            raise ConfigError(
                "haystack: expected a text to hide the facts in, found none, and rows without 'context'"
            )
        if unknown := sorted(set(args.lengths or words) - set(words)):
            raise DataError(f"{args.file.name}: expected lengths among {words}, found {unknown}")
        stories = [story for story in stories if story.words in (args.lengths or (*words, None))]
    return stories, [] if args.examples is None else parse_rows(args.examples, parse_story)


def _check(args: argparse.Namespace) -> None:
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"limit: expected at least 1, found {args.limit}")
    if args.shots < 0 or (args.shots > 0) != (args.examples is not None):
        raise ConfigError(f"shots: expected a number with --examples, found {args.shots} and {args.examples}")
