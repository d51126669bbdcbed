"""``hope eval task``: a benchmark's local file, in this process or against a server."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hope_model.errors import ConfigError
from hope_model.evaluate.subjects import add_quantize
from hope_model.evaluate.tasks.formats import TASKS

if TYPE_CHECKING:
    from hope_model.convert.progress import Progress
    from hope_model.evaluate.subject import Find
    from hope_model.evaluate.tasks.figures import Figures, Found
    from hope_model.evaluate.tasks.scorer import Scorer

WIKITEXT = "wikitext"

_DESCRIPTION = (
    "Scores every row with a fresh session: prompts, choices and figures as lm-eval's tasks of the same "
    "names have them. Rows may be as the benchmark publishes them, or context, choices, gold; wikitext is a "
    "text file of articles."
)


def add_parser(kinds: Any, find: Find | None) -> None:
    """Mount ``task`` on ``hope eval``; ``find`` as its ``add_parser`` takes it."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "task", help="accuracy or perplexity on a benchmark's local file", description=_DESCRIPTION
    )
    parser.add_argument("task", choices=[WIKITEXT, *TASKS])
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--model", default="hope-tiny", help="name or folder; with --url as the server names it"
    )
    parser.add_argument("--url", help="an OpenAI-compatible server; its key is in OPENAI_API_KEY")
    parser.add_argument("--limit", type=int, help="the first so many rows or articles (default: all)")
    parser.add_argument("--batch", type=int, default=16, help="texts at once (default: %(default)s)")
    parser.add_argument(
        "--window",
        type=int,
        help="wikitext: tokens judged by a session; lm-eval's is its max_length less 2 (default: an article)",
    )
    parser.add_argument(
        "--prefix-token",
        type=int,
        help="id before a text, with --url (default: what the server says begins or ends a text)",
    )
    add_quantize(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="write what was found for each row here, JSON lines"
    )
    parser.set_defaults(run_command=partial(run, find=find))


def run(args: argparse.Namespace, find: Find | None = None) -> int:
    """Print a table of the figures; returns the exit code."""
    from hope_model.convert.progress import console_progress

    for name in ("limit", "batch", "window"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected a positive number, found {value}")
    if args.window is not None and args.task != WIKITEXT:
        raise ConfigError(f"window: expected with {WIKITEXT} alone, found with {args.task}")
    if args.prefix_token is not None and args.url is None:
        raise ConfigError("prefix_token: expected with --url alone, found without")
    if args.quantize != "none" and args.url is not None:
        raise ConfigError(f"quantize: expected a model of this process, found {args.quantize} with --url")
    with console_progress() as progress, ExitStack() as closing:
        figures, rows = _figures(args, partial(_scorer, args, find, closing), progress)
    if args.json is not None:
        # JSON has no infinity.
        values = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        content = {"task": args.task, "file": args.file.name, "model": args.model, **values}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if args.rows is not None:
        lines = [json.dumps({"row": number, **row}) for number, row in enumerate(rows)]
        args.rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(table(args.task, figures))
    return 0


def table(task: str, figures: Figures) -> str:
    """One row a figure, its standard error beside it."""
    lines = [f"| {task} | value | ± |", "|---|---|---|"]
    for name, value in figures.items():
        if not name.endswith("_stderr"):
            error = figures.get(f"{name}_stderr")
            shown = f"{value:,.0f}" if name in ("rows", "articles", "tokens") else f"{value:.4f}"
            lines.append(f"| {name} | {shown} | {'' if error is None else f'{error:.4f}'} |")
    return "\n".join(lines)


def _figures(
    args: argparse.Namespace, open_scorer: Callable[[], Scorer], progress: Progress
) -> tuple[Figures, list[Found]]:
    from hope_model.evaluate.tasks.figures import choice_figures, last_word_figures, text_figures
    from hope_model.evaluate.tasks.files import read_articles, read_items

    if args.task == WIKITEXT:
        articles = read_articles(args.file, args.limit)
        scorer = open_scorer()
        return text_figures(scorer, articles, window=args.window, batch=args.batch, progress=progress)
    items = read_items(args.file, TASKS[args.task], args.limit)
    scorer = open_scorer()
    if args.task == "lambada":
        return last_word_figures(scorer, items, batch=args.batch, progress=progress)
    return choice_figures(scorer, TASKS[args.task], items, batch=args.batch, progress=progress)


def _scorer(args: argparse.Namespace, find: Find | None, closing: ExitStack) -> Scorer:
    if args.url is not None:
        import httpx

        from hope_model.evaluate.tasks.remote import TIMEOUT_S, RemoteScorer

        client = closing.enter_context(httpx.Client(timeout=TIMEOUT_S))
        key = os.environ.get("OPENAI_API_KEY")
        return RemoteScorer(args.url, args.model, client, key=key, prefix=args.prefix_token)
    from hope_model.attention.quantize import bits_of, require_unquantized
    from hope_model.evaluate.recall_cli import locate
    from hope_model.evaluate.subject import is_attention
    from hope_model.evaluate.tasks.scorer import AttentionScorer, HopeScorer

    folder, quantize = locate(find, args.model), bits_of(args.quantize)
    if not is_attention(folder):
        from hope_model.checkpoint import load_checkpoint

        require_unquantized(folder, quantize)
        return HopeScorer(*load_checkpoint(folder))
    from hope_model.attention.checkpoint import load_attention_checkpoint
    from hope_model.attention.rows import SessionRows

    checkpoint = load_attention_checkpoint(folder, quantize=quantize)
    begin = checkpoint.tokenizer.bos_id if checkpoint.add_bos else None
    prefix = min(checkpoint.tokenizer.eos_ids) if begin is None else begin
    return AttentionScorer(SessionRows(checkpoint.model, 1), checkpoint.tokenizer, prefix)
