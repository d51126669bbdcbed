"""Serving benchmark over HTTP: decode throughput at several session counts; whether a long chat stays cheap.

    python tests/bench/serving.py [--model hope-tiny] [--json FILE]

Starts its own ``hope serve``. Ratios come first; they hold on other machines, absolute figures do not.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hope_client import AsyncClient

DECODE_TOKENS = 128
TURNS = 200
EDGE = 40
"""Turns at each end of the chat whose medians are compared."""


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="hope-tiny")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--repeats", type=int, default=3, help="turns per session count, in turn (default: 3)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url = start_server(args.model, Path(folder))
        try:
            async with AsyncClient(base_url=url, timeout=600) as client:
                figures = await measure(client, args)
        finally:
            process.terminate()
            process.wait()
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(figures))


def start_server(model: str, folder: Path, *flags: str) -> tuple["subprocess.Popen[str]", str]:
    """A ``hope serve`` on a free port of loopback, ready to answer; ``flags`` are more settings."""
    command = [
        sys.executable,
        "-m",
        "hope_server",
        "serve",
        "--port",
        "0",
        "--model",
        model,
        "--data-dir",
        str(folder),
        *flags,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"ready at (http://\S+)", line)
    if not found:
        raise SystemExit(f"the server did not start: {line!r}")
    return process, found[1]


async def measure(client: AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    await decode_rate(client, args.model, 1)  # warms allocator and caches up
    rates: dict[int, list[float]] = {n: [] for n in args.sessions}
    for _ in range(args.repeats):
        for sessions in args.sessions:
            rates[sessions].append(await decode_rate(client, args.model, sessions))
    first, last = await chat_latency(client, args.model)
    session = (await client.sessions.create()).id
    await client.completions(model=args.model, prompt=[100], max_tokens=1, session_id=session)
    levels = (await client.sessions.levels(session)).levels
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {processor()}",
        "state_bytes": sum(level.bytes for level in levels),
        "decode_tokens_per_s": {n: statistics.median(values) for n, values in rates.items()},
        "ttft_first_turns_s": first,
        "ttft_last_turns_s": last,
        "ttft_ratio": last / first,
    }


async def decode_rate(client: AsyncClient, model: str, sessions: int) -> float:
    """Tokens per second of all sessions together, from the last one's start to the first one's end."""
    ids = [(await client.sessions.create()).id for _ in range(sessions)]
    stamps = await asyncio.gather(
        *(token_times(client, model, session, seed) for seed, session in enumerate(ids))
    )
    start, end = max(own[0] for own in stamps), min(own[-1] for own in stamps)
    for session in ids:
        await client.sessions.delete(session)
    return sum(start < stamp <= end for own in stamps for stamp in own) / (end - start)


async def token_times(client: AsyncClient, model: str, session: str, seed: int) -> list[float]:
    stream = await client.completions(
        model=model,
        prompt=[100 + seed] * 16,
        max_tokens=DECODE_TOKENS,
        temperature=1.0,
        seed=seed,
        ignore_eos=True,
        session_id=session,
        stream=True,
        continuous_usage=True,
    )
    times: list[float] = []
    async with stream:
        async for chunk in stream:
            done = chunk.usage.completion_tokens if chunk.usage else 0
            times += [time.perf_counter()] * (done - len(times))
    return times


async def chat_latency(client: AsyncClient, model: str) -> tuple[float, float]:
    """Median seconds to the first token: first turns of fresh chats, last turns of one long chat, in turn."""
    long = (await client.sessions.create()).id
    for turn in range(TURNS - EDGE):
        await first_token(client, model, long, turn)
    fresh_times, long_times = [], []
    for turn in range(EDGE):
        fresh = (await client.sessions.create()).id
        fresh_times.append(await first_token(client, model, fresh, turn))
        long_times.append(await first_token(client, model, long, TURNS - EDGE + turn))
    return statistics.median(fresh_times), statistics.median(long_times)


async def first_token(client: AsyncClient, model: str, session: str, turn: int) -> float:
    start, found = time.perf_counter(), None
    stream = await client.chat(
        model=model,
        messages=[{"role": "user", "content": f"Tell me something about the number {turn % 10}, please."}],
        max_tokens=8,
        ignore_eos=True,
        session_id=session,
        stream=True,
    )
    async with stream:
        async for chunk in stream:
            if found is None and chunk.choices and chunk.choices[0].delta.content:
                found = time.perf_counter() - start
    return found if found is not None else time.perf_counter() - start


def table(figures: dict[str, Any]) -> str:
    rates = figures["decode_tokens_per_s"]
    fewest, one = next(iter(rates.items()))
    lines = [
        "| figure | ratio | here |",
        "|---|---|---|",
        f"| time to first token, turn {TURNS} / turn 1 of a chat | {figures['ttft_ratio']:.2f} "
        f"| {figures['ttft_last_turns_s'] * 1e3:.0f} / {figures['ttft_first_turns_s'] * 1e3:.0f} ms |",
    ]
    for sessions, rate in rates.items():
        lines.append(f"| decode tokens/s, {sessions} session(s) / {fewest} | {rate / one:.2f} | {rate:.0f} |")
    lines.append(f"| state per session | | {figures['state_bytes']:,} bytes |")
    return "\n".join(lines) + f"\n\nMachine: {figures['machine']}."


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return platform.processor()
    return found[1] if found else platform.processor()


if __name__ == "__main__":
    asyncio.run(main())
