"""``hope eval``: measure a checkpoint on local files."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hope_model.errors import DataError
from hope_model.evaluate import babilong_cli, needle_cli, recall_cli
from hope_model.evaluate.continual import cli as continual_cli
from hope_model.evaluate.recall_cli import locate
from hope_model.evaluate.subjects import add_quantize
from hope_model.evaluate.tasks import cli as tasks_cli
from hope_model.train.shards import read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hope_model.evaluate.stream import StreamLosses
    from hope_model.evaluate.subject import Find, RenderOf
    from hope_model.evaluate.subjects import OpenServer


class StreamLengths(NamedTuple):
    """Tokens of a stream, the first judged one, and a fresh session's lead (None: no such session)."""

    tokens: int
    judged_from: int
    lead: int | None


STREAM_LENGTHS = {
    "hope": StreamLengths(65_536, 32_768, 2_048),
    "hope_attention": StreamLengths(8_192, 2_048, None),
}
"""By family: every write of a pre-trained model costs gradients, so its streams are shorter."""


def add_parser(
    subparsers: Any,
    find: Find | None = None,
    render_of: RenderOf | None = None,
    open_server: OpenServer | None = None,
) -> None:
    """Mount ``hope eval`` on the main command.

    Args:
        find: finds models by name; without it, shipped ones and folders.
        render_of: how checkpoints with a chat template write chats; ``recall`` needs it.
        open_server: connects to a server, for ``needle``, ``babilong`` and ``continual`` to measure.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser("eval", help="measure a model")
    kinds = parser.add_subparsers(dest="kind", required=True)
    stream = kinds.add_parser("stream", help="loss along long streams: learning, memories frozen, fresh")
    stream.add_argument(
        "files", type=Path, nargs="+", help=".txt, .jsonl or .jsonl.zst (field text); each is one stream"
    )
    _add_model(stream)
    stream.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for stream.md, stream.json, stream.png"
    )
    stream.add_argument("--tokens", type=int, help=f"length of a stream ({_defaults('tokens')})")
    stream.add_argument("--judged-from", type=int, help=f"first judged token ({_defaults('judged_from')})")
    stream.add_argument("--lead", type=int, help=f"lead of a fresh session ({_defaults('lead')})")
    stream.add_argument(
        "--origin",
        choices=("text", "user"),
        default="text",
        help="pre-trained models: read as plain text or as a user's words in a chat (default: %(default)s)",
    )
    stream.add_argument("--offset", type=int, default=0, help="characters to skip in each file (default: 0)")
    add_quantize(stream)
    stream.set_defaults(run_command=partial(run_stream, find=find))
    bits = kinds.add_parser("bits", help="bits per byte of held-out text, state carried along each file")
    bits.add_argument("files", type=Path, nargs="+", help=".txt, .jsonl or .jsonl.zst (field text)")
    _add_model(bits)
    bits.add_argument(
        "--tokens", type=int, default=65_536, help="at most so many per file (default: %(default)s)"
    )
    bits.add_argument(
        "--transformer-run", type=Path, help="also a run of the reference Transformer, window by window"
    )
    bits.add_argument(
        "--window", type=int, default=512, help="the Transformer's context (default: %(default)s)"
    )
    bits.set_defaults(run_command=partial(run_bits, find=find))
    recall_cli.add_parser(kinds, find, render_of)
    tasks_cli.add_parser(kinds, find)
    needle_cli.add_parser(kinds, find, open_server)
    babilong_cli.add_parser(kinds, find, open_server)
    continual_cli.add_parser(kinds, find, open_server)


def run_stream(args: argparse.Namespace, find: Find | None = None) -> int:
    """Print the table and write the report; returns the exit code."""
    from hope_model.evaluate.report import write_report

    _at_least(0, offset=args.offset)
    names = [path.stem for path in args.files]
    if len(set(names)) < len(names):
        raise DataError(f"streams: expected files of distinct names, found {', '.join(names)}")
    texts = [read_text(path)[args.offset :] for path in args.files]
    print(write_report(_stream_losses(args, locate(find, args.model), names, texts), args.out))
    return 0


def _stream_losses(
    args: argparse.Namespace, folder: Path, names: Sequence[str], texts: Sequence[str]
) -> list[StreamLosses]:
    from hope_model.attention.quantize import bits_of, require_unquantized
    from hope_model.evaluate.stream import StreamSettings, stream_losses
    from hope_model.evaluate.subject import is_attention

    attention = is_attention(folder)
    given = {name: getattr(args, name) for name in StreamLengths._fields}
    lengths = STREAM_LENGTHS["hope_attention" if attention else "hope"]._replace(
        **{name: value for name, value in given.items() if value is not None}
    )
    settings = StreamSettings(stream=lengths.tokens, judged_from=lengths.judged_from, lead=lengths.lead)
    quantize = bits_of(args.quantize)
    if not attention:
        from hope_model.checkpoint import load_checkpoint

        require_unquantized(folder, quantize)
        model, tokenizer = load_checkpoint(folder)
        return stream_losses(model, list(zip(names, tokenizer.encode_batch(texts), strict=True)), settings)
    from hope_model.attention.checkpoint import load_attention_checkpoint
    from hope_model.convert.progress import console_progress
    from hope_model.evaluate.attention_stream import attention_stream_losses

    checkpoint = load_attention_checkpoint(folder, quantize=quantize)
    bos = checkpoint.tokenizer.bos_id
    start = () if not checkpoint.add_bos or bos is None else (bos,)
    streams = list(zip(names, checkpoint.tokenizer.encode_batch(texts), strict=True))
    with console_progress() as progress:
        return attention_stream_losses(
            checkpoint.model, streams, settings, origin=args.origin, text_start=start, progress=progress
        )


def run_bits(args: argparse.Namespace, find: Find | None = None) -> int:
    """Print one JSON line a file, then their plain mean; returns the exit code."""
    from hope_model.checkpoint import load_checkpoint
    from hope_model.evaluate.bits import hope_bits, load_transformer, transformer_bits

    _at_least(1, tokens=args.tokens)
    model, tokenizer = load_checkpoint(locate(find, args.model))
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


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="hope-tiny", help="name or folder (default: %(default)s)")


def _defaults(name: str) -> str:
    values = (getattr(STREAM_LENGTHS[family], name) for family in ("hope", "hope_attention"))
    hope, attention = ("none" if value is None else str(value) for value in values)
    return f"default: {hope}, for pre-trained models {attention}"


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
