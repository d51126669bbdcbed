"""``hope eval needle``: is one sentence found again in a long text?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hope_model.evaluate.subjects import add_subjects, file_named

if TYPE_CHECKING:
    from hope_model.evaluate.haystack import Haystack
    from hope_model.evaluate.measuring import ItemsOf
    from hope_model.evaluate.needle import Needle, NeedleSettings, NeedleText
    from hope_model.evaluate.sessions.asking import Subject
    from hope_model.evaluate.subject import Find
    from hope_model.evaluate.subjects import OpenServer

NOISE = "noise"

_DESCRIPTION = (
    "Hides a sentence in a long text, then asks for it: with learning on, off, and for pre-trained models "
    "with the whole text in sight. The text is a file of prose, 'noise' (the same five sentences again and "
    "again), or a .jsonl file of texts that hold their needle: words, depth, context, question, answer."
)


def add_parser(kinds: Any, find: Find | None, open_server: OpenServer | None) -> None:
    """Mount ``needle`` on ``hope eval``; arguments as its ``add_parser`` takes them."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "needle", help="one sentence in a long text, asked for at its end", description=_DESCRIPTION
    )
    parser.add_argument("haystack", help="a text file, 'noise', or a .jsonl file of whole texts")
    add_subjects(parser, "needle")
    parser.add_argument("--kind", choices=("number", "word", "uuid"), help="what is hidden (default: number)")
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        metavar="TOKENS",
        help="of the text (default: 1024 2048 4096); of a .jsonl file: only these of its lengths",
    )
    parser.add_argument(
        "--depths", type=int, nargs="+", metavar="PERCENT", help="of the needle (default: 0 25 50 75 100)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        help="needles of each length and depth (default: 2; of a .jsonl file: all that it has)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which needles (default: %(default)s)")
    parser.set_defaults(run_command=partial(run_needle, find=find, open_server=open_server))


def run_needle(
    args: argparse.Namespace, find: Find | None = None, open_server: OpenServer | None = None
) -> int:
    """Print the report and write it; returns the exit code."""
    from hope_model.evaluate.measuring import ask_items, run
    from hope_model.evaluate.needle_report import write_needles

    needles_of, about = _texts(args) if args.haystack.endswith(".jsonl") else _hidden(args)
    measure = partial(ask_items, needles_of, args.conditions)
    return run(args, "needle", about, measure, write_needles, find=find, open_server=open_server)


def _hidden(args: argparse.Namespace) -> tuple[ItemsOf, dict[str, Any]]:
    from hope_model.evaluate.needle import NeedleSettings, hidden_needles

    given = {name: getattr(args, name) for name in ("kind", "lengths", "depths", "repeats")}
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    settings = NeedleSettings(**chosen, seed=args.seed)
    text = None if args.haystack == NOISE else _read(args.haystack)

    def needles(subject: Subject) -> Iterator[Needle]:
        return hidden_needles(settings, _haystack(subject, args.haystack, text, settings), subject.encode)

    return needles, {"haystack": _source(args.haystack), **_shown(settings)}


def _haystack(subject: Subject, name: str, text: str | None, settings: NeedleSettings) -> Haystack:
    from hope_model.evaluate.haystack import Haystack, noise, sentences

    whole = noise(max(settings.lengths)) if text is None else text
    return Haystack(Path(name).name, subject.encode(sentences(whole)))


def _texts(args: argparse.Namespace) -> tuple[ItemsOf, dict[str, Any]]:
    from hope_model.errors import ConfigError, DataError
    from hope_model.evaluate.needle import needles_of, parse_needle
    from hope_model.evaluate.rows import parse_rows

    if args.kind is not None or args.depths is not None:
        raise ConfigError(
            "kind, depths: expected with a text that nothing is hidden in, found with a .jsonl file"
        )
    if args.repeats is not None and args.repeats < 1:
        raise ConfigError(f"repeats: expected at least 1, found {args.repeats}")
    path = Path(args.haystack)
    texts: list[NeedleText] = parse_rows(path, parse_needle)
    lengths = sorted({text.length for text in texts})
    if unknown := sorted(set(args.lengths or lengths) - set(lengths)):
        raise DataError(f"{path.name}: expected lengths among {lengths}, found {unknown}")
    chosen = [text for text in texts if text.length in (args.lengths or lengths)]
    about = {"haystack": file_named(path), "lengths": args.lengths or lengths, "seed": args.seed}
    return (
        lambda subject: needles_of(chosen, subject.encode, limit=args.repeats, seed=args.seed),
        about | {"repeats": args.repeats},
    )


def _read(name: str) -> str:
    from hope_model.evaluate.rows import read_file

    return read_file(Path(name))


def _source(haystack: str) -> dict[str, str | None]:
    return {"name": NOISE, "sha256": None} if haystack == NOISE else file_named(Path(haystack))


def _shown(settings: NeedleSettings) -> dict[str, Any]:
    return {**settings.__dict__, "lengths": list(settings.lengths), "depths": list(settings.depths)}
