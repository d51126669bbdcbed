"""`hope bench decode` and `hope bench serve`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hope_server.bench.load_plan import LoadSettings, Span
from hope_server.config import DEVICES, MAX_THREADS, Quantize, usable_cores
from hope_server.errors import StartupError

if TYPE_CHECKING:
    import httpx
    import torch

    from hope_server.engine.runner import ServedModel

NOTHING_WHOLE = 1


def add_parser(subparsers: Any) -> None:
    """Mount ``hope bench`` on the main command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed",
        description="Measure how fast sessions decode, or how a server answers.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_decode(kinds)
    _add_serve(kinds)


def run_decode(args: argparse.Namespace) -> int:
    """Measure the engine alone; prints a table. Raises StartupError for a model that cannot be loaded."""
    from hope_server.bench.bandwidth import copy_bandwidth
    from hope_server.bench.decode import DecodeRun, measure
    from hope_server.bench.decode_report import decode_report, table
    from hope_server.bench.step_bytes import step_bytes
    from hope_server.engine.device import find_device
    from hope_server.engine.threads import use_threads
    from hope_server.models import load_served

    device = find_device(args.device)
    use_threads(args.threads)
    served = load_served(
        args.model, learning=args.learn, threads=args.threads, device=device, quantize=args.quantize
    )
    run = DecodeRun(
        args.prompt_tokens,
        args.tokens,
        args.temperature,
        args.threads,
        args.learn,
        quantize=args.quantize,
        decode_rows=args.decode_rows,
    )
    _require_room(served.model, max(args.sessions), device)
    measure(served.model, run, min(args.sessions))
    runs = [measure(served.model, run, sessions) for _ in range(args.repeats) for sessions in args.sessions]
    bandwidth = copy_bandwidth(device)
    found = decode_report(served.name, run, runs, step_bytes(served.model), bandwidth)
    _write_json(found, args.json)
    print(table(found))
    return 0


def _require_room(model: ServedModel, sessions: int, device: torch.device) -> None:
    """Raises StartupError for more sessions than the device's memory holds."""
    from hope_server.engine.fit import free_bytes, slot_bytes

    free, each = free_bytes(device), slot_bytes(model)
    if free is not None and sessions * each > free:
        raise StartupError(
            f"--sessions: {sessions:,} of {each:,} bytes each do not fit: {free:,} bytes are free, which is "
            f"enough for {free // each:,}",
            param="sessions",
        )


def run_serve(args: argparse.Namespace) -> int:
    """Put load on a server; 0 if any answer was whole. Raises StartupError if it cannot be asked at all."""
    from hope_server.bench.load_report import plot, report, table

    settings = LoadSettings(
        requests=args.requests,
        warm_up=args.warm_up,
        rate=args.rate,
        concurrency=args.concurrency,
        turns=args.turns,
        prompt_words=args.prompt_words,
        answer_tokens=args.answer_tokens,
        seed=args.seed,
    )
    if args.plot is not None:
        _require_matplotlib()
    model, samples = asyncio.run(_put_load(args, settings))
    asked = {
        **asdict(settings),
        "prompt_words": str(settings.prompt_words),
        "answer_tokens": str(settings.answer_tokens),
        "endpoint": args.endpoint,
        "temperature": args.temperature,
        "ignore_eos": args.ignore_eos,
    }
    found = {"model": model, "settings": asked, **report(samples, warm_up=settings.warm_up)}
    _write_json(found, args.json)
    if args.plot is not None:
        plot(samples, args.plot, warm_up=settings.warm_up)
    print(table(found))
    return 0 if found["requests"]["whole"] else NOTHING_WHOLE


async def _put_load(args: argparse.Namespace, settings: LoadSettings) -> tuple[str, list[Any]]:
    import httpx

    from hope_server.bench.answer import Asking
    from hope_server.bench.load import Load
    from hope_server.bench.load_plan import plan

    key = os.environ.get("HOPE_API_KEY")
    async with httpx.AsyncClient(
        base_url=args.url,
        timeout=args.timeout_s,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
    ) as client:
        model = args.model or await _first_model(client)
        asking = Asking(args.endpoint, model, args.ignore_eos, args.temperature)
        load = Load(client, asking, settings)
        try:
            await load.send(plan(settings))
        finally:
            left = await load.sessions.delete_all()
        if left:
            print(f"{left} sessions could not be deleted")
        return model, load.samples


async def _first_model(client: httpx.AsyncClient) -> str:
    import httpx

    try:
        response = await client.get("/v1/models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StartupError(
            f"--url {client.base_url}: cannot ask for its models: {str(error) or type(error).__name__}",
            param="url",
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise StartupError(
            f"--url {client.base_url}: expected a list of models from /v1/models; name one with --model",
            param="model",
        ) from error


def _write_json(found: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _require_matplotlib() -> None:
    """Before the load, not after it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise StartupError("--plot: matplotlib is not installed (extra 'plot')", param="plot") from None


def _add_decode(kinds: Any) -> None:
    parser = kinds.add_parser(
        "decode",
        help="the engine alone: tokens/s, step time, fraction of the memory bandwidth",
        description="Decode sessions in this process, without HTTP and store. The bandwidth limit is that of "
        "the slow weights, read once a step, and each session's state as a token reads and writes it.",
    )
    parser.add_argument("--model", default="hope-tiny", help="as of `hope serve` (default: hope-tiny)")
    parser.add_argument("--device", type=_device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--decode-rows", type=_count, default=4, help="as of `hope serve`: of use on a GPU (default: 4)"
    )
    parser.add_argument("--sessions", type=_count, nargs="+", default=[1, 4, 16, 32], metavar="N")
    parser.add_argument("--tokens", type=_count, default=256, help="generated by each session (default: 256)")
    parser.add_argument("--prompt-tokens", type=_count, default=16, help="read before (default: 16)")
    parser.add_argument("--temperature", type=_positive_or_zero, default=1.0, help="default: 1")
    parser.add_argument("--repeats", type=_count, default=3, help="medians of so many runs (default: 3)")
    parser.add_argument("--threads", type=_threads, default=usable_cores(), help="default: all usable cores")
    parser.add_argument(
        "--learn", action=argparse.BooleanOptionalAction, default=True, help="as of `hope serve`"
    )
    parser.add_argument(
        "--quantize", choices=get_args(Quantize), default="none", help="as of `hope serve` (default: none)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.set_defaults(run_command=run_decode)


def _add_serve(kinds: Any) -> None:
    parser = kinds.add_parser(
        "serve",
        help="load on a running server: latencies and throughput as clients see them",
        description="Put load on a server that speaks OpenAI's API: a Poisson process (--rate) or clients "
        "that wait for their answers (--concurrency). The API key comes from HOPE_API_KEY.",
    )
    url = os.environ.get("HOPE_URL", "http://127.0.0.1:8000")
    parser.add_argument("--url", default=url, help="address of the server (HOPE_URL; default: %(default)s)")
    parser.add_argument("--model", help="model to ask for (default: the first that the server lists)")
    parser.add_argument("--endpoint", choices=("completions", "chat"), default="completions")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=_positive, help="requests a second, in a Poisson process")
    pace.add_argument("--concurrency", type=_count, default=8, help="clients at once (default: 8)")
    parser.add_argument("--requests", type=_count, default=64, help="that count (default: 64)")
    parser.add_argument("--warm-up", type=_count_or_zero, default=8, help="requests before (default: 8)")
    parser.add_argument(
        "--turns",
        type=_count_or_zero,
        default=4,
        help="requests that share a session; 0 for none, which any server takes (default: 4)",
    )
    parser.add_argument(
        "--prompt-words", type=_span, default=Span(16, 64), help="N or LOW-HIGH (default: 16-64)"
    )
    parser.add_argument(
        "--answer-tokens", type=_span, default=Span(64, 64), help="N or LOW-HIGH (default: 64)"
    )
    parser.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="answers have their full length; --no-ignore-eos for servers that do not know the option",
    )
    parser.add_argument("--temperature", type=_positive_or_zero, default=1.0, help="default: 1")
    parser.add_argument("--timeout-s", type=_positive, default=600.0, help="of any wait (default: 600)")
    parser.add_argument("--seed", type=_count_or_zero, default=0, help="of all chance (default: 0)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--plot", type=_png, metavar="PNG", help="draw them here (needs the extra 'plot')")
    parser.set_defaults(run_command=run_serve)


def _count(text: str) -> int:
    return _number(text, 1)


def _count_or_zero(text: str) -> int:
    return _number(text, 0)


def _threads(text: str) -> int:
    """As many as a server may have."""
    if _count(text) > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"expected at most {MAX_THREADS}, found {text}")
    return int(text)


def _number(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text!r}")
    return int(text)


def _png(text: str) -> Path:
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, found {text!r}")
    return Path(text)


def _device(text: str) -> str:
    if re.fullmatch(DEVICES, text) is None:
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, found {text!r}")
    return text


def _span(text: str) -> Span:
    low, _, high = text.partition("-")
    span = Span(_count(low), _count(high or low))
    if span.low > span.high:
        raise argparse.ArgumentTypeError(f"expected N or LOW-HIGH, found {text!r}")
    return span


def _positive(text: str) -> float:
    value = _positive_or_zero(text)
    if not value:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def _positive_or_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text!r}")
    return value
