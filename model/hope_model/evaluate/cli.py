"""``hope eval``: measure a checkpoint on local files."""

import argparse
import json
from pathlib import Path
from typing import Any

from hope_model.errors import DataError
from hope_model.train.shards import read_rows


def add_parser(subparsers: Any) -> None:
    """Mount ``hope eval`` on the main command."""
    parser: argparse.ArgumentParser = subparsers.add_parser("eval", help="evaluate a model on local files")
    kinds = parser.add_subparsers(dest="kind", required=True)
    stream = kinds.add_parser("stream", help="loss along long streams: learning, freshly started, CMS frozen")
    stream.add_argument(
        "files", type=Path, nargs="+", help=".txt, .jsonl or .jsonl.zst (field text); each is one stream"
    )
    stream.add_argument("--model", default="hope-tiny", help="shipped name or checkpoint folder")
    stream.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for stream.md, stream.json, stream.png"
    )
    stream.add_argument(
        "--tokens", type=int, default=65_536, help="length of a stream (default: %(default)s)"
    )
    stream.add_argument(
        "--judged-from", type=int, default=32_768, help="first judged token (default: %(default)s)"
    )
    stream.add_argument(
        "--lead", type=int, default=2_048, help="lead of a fresh session (default: %(default)s)"
    )
    stream.add_argument("--offset", type=int, default=0, help="characters to skip in each file (default: 0)")
    stream.set_defaults(run_command=run_stream)
    bits = kinds.add_parser("bits", help="bits per byte of held-out text, state carried along each file")
    bits.add_argument("files", type=Path, nargs="+", help=".txt, .jsonl or .jsonl.zst (field text)")
    bits.add_argument("--model", default="hope-tiny", help="shipped name or checkpoint folder")
    bits.add_argument(
        "--tokens", type=int, default=65_536, help="at most so many per file (default: %(default)s)"
    )
    bits.add_argument(
        "--transformer-run", type=Path, help="also a run of the reference Transformer, window by window"
    )
    bits.add_argument(
        "--window", type=int, default=512, help="the Transformer's context (default: %(default)s)"
    )
    bits.set_defaults(run_command=run_bits)


def run_stream(args: argparse.Namespace) -> int:
    """Print the table and write the report; returns the exit code."""
    from hope_model.checkpoint import load_checkpoint, resolve
    from hope_model.evaluate.report import write_report
    from hope_model.evaluate.stream import StreamSettings, stream_losses

    _at_least(0, offset=args.offset)
    settings = StreamSettings(stream=args.tokens, judged_from=args.judged_from, lead=args.lead)
    names = [path.stem for path in args.files]
    if len(set(names)) < len(names):
        raise DataError(f"streams: expected files of distinct names, found {', '.join(names)}")
    model, tokenizer = load_checkpoint(resolve(args.model))
    texts = [read_text(path)[args.offset :] for path in args.files]
    results = stream_losses(model, list(zip(names, tokenizer.encode_batch(texts), strict=True)), settings)
    print(write_report(results, args.out))
    return 0


def run_bits(args: argparse.Namespace) -> int:
    """Print one JSON line a file, then their plain mean; returns the exit code."""
    from hope_model.checkpoint import load_checkpoint, resolve
    from hope_model.evaluate.bits import hope_bits, load_transformer, transformer_bits

    _at_least(1, tokens=args.tokens)
    model, tokenizer = load_checkpoint(resolve(args.model))
    yardstick = load_transformer(args.transformer_run, model.config.name) if args.transformer_run else None
    records: list[dict[str, float]] = []
    for path in args.files:
        ids = tokenizer.encode(read_text(path))[: args.tokens + 1]
        if len(ids) < 2:
            raise DataError(f"{path.name}: expected at least 2 tokens, found {len(ids)}")
        record = {"tokens": len(ids) - 1, "hope": hope_bits(model, tokenizer, ids)}
        if yardstick is not None:
            record["transformer"] = transformer_bits(yardstick, tokenizer, ids, args.window)
        records.append(record)
        print(json.dumps({"file": path.name, **record}))
    mean = {name: sum(record[name] for record in records) / len(records) for name in records[0]}
    print(json.dumps({"file": "mean", **mean}))
    return 0


def _at_least(least: int, **lengths: int) -> None:
    for name, found in lengths.items():
        if found < least:
            raise DataError(f"{name}: expected at least {least}, found {found}")


def read_text(path: Path) -> str:
    """The documents of a shard file, joined by blank lines.

    Raises:
        DataError: the file cannot be read; the message names the row.
    """
    return "\n\n".join(row.text for row in read_rows(path))
