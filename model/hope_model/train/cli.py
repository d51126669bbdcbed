"""``hope train``: start or resume a run; export what it learned as a checkpoint to serve."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hope_model.errors import ConfigError
from hope_model.rules import RULES
from hope_model.train.settings import LEVELS, PRECISIONS, TrainSettings

if TYPE_CHECKING:
    from hope_model.train.mixture import Source

_HELP = {
    "model": "configuration to train, or transformer-<configuration> for the yardstick",
    "rule": f"φ rule instead of the configuration's: {', '.join(RULES)}",
    "rule_options": "settings of the rule, name=value with commas between",
    "levels": "CMS levels: the configuration's, or none",
    "parameters": "count to reach, within 3%%, by the slow MLP's width; 0 keeps that width",
    "tokens": "tokens to read in all",
    "rows": "lanes per process",
    "window": "tokens per window; gradients stop at its start",
    "reset_probability": "chance per lane and window that its state starts anew",
    "learning_rate": "peak of the schedule",
    "warmup": "steps of linear warm-up",
    "final_rate": "share of the peak at the end",
    "weight_decay": "AdamW's, on matrices",
    "clip_norm": "largest norm of the gradient",
    "seed": "of weights, order of text and resets",
    "precision": f"of the slow weights' products: {', '.join(PRECISIONS)}",
    "save_every": "steps between two resumable checkpoints",
}


def add_parser(subparsers: Any) -> None:
    """Mount ``hope train`` on the main command."""
    parser: argparse.ArgumentParser = subparsers.add_parser("train", help="train a model from scratch")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of .jsonl.zst / .txt shards"
    )
    parser.add_argument(
        "--mixture", help="a built-in mixture (core) or a JSON file (default: every shard of the folder)"
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer.json; without it one is trained on the data first"
    )
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="folder of the run; resumed if it has one"
    )
    parser.add_argument("--threads", type=int, help="torch threads (default: all cores)")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="when done, write the checkpoint to serve here"
    )
    for field in fields(TrainSettings):
        flag = "--" + field.name.replace("_", "-")
        choices = {"precision": PRECISIONS, "levels": LEVELS}.get(field.name)
        kind = type(field.default)
        parser.add_argument(
            flag,
            type=kind,
            default=field.default,
            choices=choices,
            help=f"{_HELP[field.name]} (default: {field.default})",
        )
    parser.set_defaults(run_command=run)


def run(args: argparse.Namespace) -> int:
    """Train, then export if asked; returns the exit code."""
    import torch

    from hope_model.train.export import export_run
    from hope_model.train.trainer import train
    from hope_model.train.vocabulary import tokenizer_for

    settings = TrainSettings(**{field.name: getattr(args, field.name) for field in fields(TrainSettings)})
    if not settings.yardstick:
        settings.hope_config()  # a rule or option that does not exist is said before anything is read
    if args.threads is not None:
        if args.threads < 1:
            raise ConfigError(f"threads: expected a positive integer, found {args.threads}")
        torch.set_num_threads(args.threads)
    sources = _sources(args.data, args.mixture)
    tokenizer = tokenizer_for(settings.model, sources, args.tokenizer, args.run)
    try:
        train(settings, sources, tokenizer, args.run)
    except KeyboardInterrupt:
        print(f"stopped; go on with the same command (--run {args.run})")
        return 130
    if args.export and os.environ.get("RANK", "0") == "0":
        export_run(args.run, settings, tokenizer, args.export)
    return 0


def _sources(folder: Path, mixture: str | None) -> Sequence["Source"]:
    from hope_model.train.mixture import builtin_mixture, load_mixture, shards_of

    if mixture is None:
        return shards_of(folder)
    found = load_mixture(Path(mixture)) if mixture.endswith(".json") else builtin_mixture(mixture)
    return found.resolve(folder)
