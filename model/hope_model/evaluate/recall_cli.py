"""``hope eval recall``: what a session still knows when the words have left its window."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hope_model.evaluate.subjects import add_quantize

if TYPE_CHECKING:
    from hope_model.attention.checkpoint import AttentionCheckpoint
    from hope_model.evaluate.facts import Person
    from hope_model.evaluate.recall import CeilingOf
    from hope_model.evaluate.subject import Find, RenderOf

_DESCRIPTION = (
    "Tell a session facts, talk about something else until they have left its window, then ask: with "
    "learning on, off, and with unlimited context. Sanity figures stand beside: how far the answers to "
    "unrelated prompts moved, and how much they repeat themselves."
)


def add_parser(kinds: Any, find: Find | None, render_of: RenderOf | None) -> None:
    """Mount ``recall`` on ``hope eval``; arguments as its ``add_parser`` takes them."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "recall", help="facts told once, asked for beyond the window", description=_DESCRIPTION
    )
    parser.add_argument(
        "--model", default="smollm2-135m", help="name or checkpoint folder (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for recall.md, recall.json, recall.png"
    )
    parser.add_argument("--people", type=int, default=20, help="one session each (default: %(default)s)")
    parser.add_argument("--facts-per-person", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--distance",
        type=float,
        nargs="+",
        default=[2.0, 8.0],
        metavar="WINDOWS",
        help="windows of tokens between telling and asking (default: 2 8)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which people (default: %(default)s)")
    parser.add_argument(
        "--personas",
        type=Path,
        metavar="FILE",
        help=".jsonl of p1, p2 and chat: facts and chats from it, instead of invented ones",
    )
    parser.add_argument(
        "--chats", type=Path, metavar="FILE", help="like --personas, but take only the chats from it"
    )
    parser.add_argument(
        "--reference",
        choices=("own", "transformers"),
        default="own",
        help="whose unlimited context is the ceiling (default: %(default)s)",
    )
    parser.add_argument(
        "--sanity-people",
        type=int,
        default=4,
        help="sessions per distance that are asked unrelated things (default: %(default)s)",
    )
    add_quantize(parser)
    parser.set_defaults(run_command=partial(run_recall, find=find, render_of=render_of))


def run_recall(args: argparse.Namespace, find: Find | None = None, render_of: RenderOf | None = None) -> int:
    """Print the report and write it; returns the exit code."""
    from hope_model.attention.quantize import bits_of
    from hope_model.convert.progress import console_progress
    from hope_model.evaluate.recall import Recall, RecallSettings
    from hope_model.evaluate.recall_report import write_recall
    from hope_model.evaluate.subject import load_talking
    from hope_model.evaluate.unrelated import PROMPTS

    settings = RecallSettings(tuple(args.distance), args.sanity_people)
    people = _people(args)
    folder = locate(find, args.model)
    checkpoint, chat = load_talking(folder, render_of, quantize=bits_of(args.quantize))
    ceiling = _transformers(folder, checkpoint) if args.reference == "transformers" else None
    with console_progress() as progress:
        measurement = Recall(checkpoint.model, chat, settings, ceiling=ceiling, prompts=PROMPTS)
        result = measurement.measure(people, progress)
    about = {
        "model": checkpoint.model.config.name,
        "quantize": args.quantize,
        "window": checkpoint.model.config.memory.window,
        "people": len(people),
        "facts": "invented" if args.personas is None else args.personas.name,
        "facts_per_person": args.facts_per_person,
        "filler": _filler_name(args),
        "seed": args.seed,
        "unrelated_prompts": len(PROMPTS),
        "ceiling": f"unlimited context, {args.reference}",
    }
    print(write_recall(result, about, args.out))
    return 0


def locate(find: Find | None, name: str) -> Path:
    """The folder of a model by its name, as the caller of the command finds models."""
    from hope_model.checkpoint import resolve

    return (find or resolve)(name)


def _people(args: argparse.Namespace) -> list[Person]:
    from hope_model.evaluate.facts import invent_people
    from hope_model.evaluate.filler import FILLER
    from hope_model.evaluate.personas import chats_of, choose_people, read_personas

    talk = None if args.chats is None else chats_of(read_personas(args.chats), args.seed)
    if args.personas is None:
        return invent_people(args.people, args.facts_per_person, args.seed, FILLER if talk is None else talk)
    rows = read_personas(args.personas)
    return choose_people(rows, args.people, args.facts_per_person, args.seed, talk)


def _filler_name(args: argparse.Namespace) -> str:
    if args.chats is not None:
        return str(args.chats.name)
    return "built in" if args.personas is None else f"{args.personas.name}, of other people"


def _transformers(folder: Path, checkpoint: AttentionCheckpoint) -> CeilingOf:
    from hope_model.evaluate.transformers_reader import TransformersReader, load_llama

    model = load_llama(folder, checkpoint.model.config, checkpoint.model.backbone.dtype)
    return lambda _tokens: TransformersReader(model)
