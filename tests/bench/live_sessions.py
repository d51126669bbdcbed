"""Many live sessions on few slots: is anything lost, does memory grow, and what does a cold turn cost?

    python -m tests.bench.live_sessions [--sessions 5000] [--slots 64] [--rounds 3] [--concurrency 8]

Starts its own ``hope serve``. In each round every session takes a turn, in random order; every so many turns
the same session takes another at once, whose state is still in its slot: the difference of both times to the
first token is what a cold turn costs more. At the end every session's journal must hold exactly what its
turns read and wrote, and some sessions are computed anew from theirs. A turn that the server breaks off,
since its store does not answer in time, and one whose answer was lost on the way, so that the client's own
repetition is refused, are counted: the session must hold all that was acknowledged. The status is 1 if
anything was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.serving import start_server

from hope_client import APIError, AsyncClient
from hope_server.bench.figures import percentile, summary

PROMPT_TOKENS, ANSWER_TOKENS = 8, 4
ASKED_AGAIN = 20
BROKEN_OFF = ("store_unavailable", "already_learned")
WARM_EVERY = 10
"""Of so many turns, one is followed by a warm one."""


@dataclass
class Life:
    """What clients have seen. tokens: by session, sent and received. rss: of the server, by turns done.
    broken: turns that the server broke off. wrong: acknowledged, and then not in the journal.
    """

    tokens: dict[str, int] = field(default_factory=dict)
    cold_s: list[float] = field(default_factory=list)
    warm_s: list[float] = field(default_factory=list)
    rss: list[tuple[int, int]] = field(default_factory=list)
    turns: int = 0
    broken: int = 0
    wrong: list[str] = field(default_factory=list)


async def turn(client: AsyncClient, life: Life, session: str, chance: random.Random) -> float | None:
    """One turn; seconds to its first token, None if it was broken off."""
    life.turns += 1
    seen: list[float] = []
    try:
        started = time.perf_counter()
        await streamed(client, session, chance, seen)
    except APIError as error:
        if error.code not in BROKEN_OFF:
            raise
        life.broken += 1
        await account(client, life, session, PROMPT_TOKENS + len(seen) if seen else 0)
        return None
    life.tokens[session] += PROMPT_TOKENS + len(seen)
    return seen[0] - started


async def account(client: AsyncClient, life: Life, session: str, acknowledged: int) -> None:
    """After a turn that was broken off: what its journal holds is at least what was acknowledged."""
    for _ in range(ASKED_AGAIN):
        try:
            found = (await client.sessions.get(session)).seq
            break
        except APIError as error:
            if error.code != "store_unavailable":
                raise
    else:
        raise SystemExit("the store is gone")
    before = life.tokens[session]
    if not before + acknowledged <= found <= before + PROMPT_TOKENS + ANSWER_TOKENS:
        life.wrong.append(f"{session}: {before + acknowledged} acknowledged, {found} in its journal")
    life.tokens[session] = found


async def streamed(client: AsyncClient, session: str, chance: random.Random, seen: list[float]) -> None:
    """A streamed turn: the moments of its tokens go into ``seen``."""
    stream = await client.completions(
        prompt=[chance.randrange(100, 8000) for _ in range(PROMPT_TOKENS)],
        max_tokens=ANSWER_TOKENS,
        ignore_eos=True,
        session_id=session,
        stream=True,
        continuous_usage=True,
    )
    async with stream:
        async for chunk in stream:
            if chunk.usage:
                seen += [time.perf_counter()] * (chunk.usage.completion_tokens - len(seen))


async def live(client: AsyncClient, life: Life, args: argparse.Namespace, pid: int) -> None:
    """All rounds."""
    chance = random.Random(args.seed)
    sessions = [(await client.sessions.create()).id for _ in range(args.sessions)]
    life.tokens = dict.fromkeys(sessions, 0)
    for _ in range(args.rounds):
        order = iter(chance.sample(sessions, len(sessions)))

        async def work(order: Any = order) -> None:
            for session in order:
                cold = await turn(client, life, session, chance)
                if life.turns % max(1, args.sessions // 50) == 0:
                    life.rss.append((life.turns, rss_bytes(pid)))
                    print(f"{life.turns} turns, {life.rss[-1][1] / 1e6:.0f} MB", file=sys.stderr, flush=True)
                if life.turns % WARM_EVERY == 0 and cold is not None:
                    warm = await turn(client, life, session, chance)
                    if warm is not None:
                        life.cold_s.append(cold)
                        life.warm_s.append(warm)

        await asyncio.gather(*(work() for _ in range(args.concurrency)))


async def losses(client: AsyncClient, life: Life, checked: int) -> list[str]:
    """What is not as it must be."""
    wrong = list(life.wrong)
    for session, tokens in life.tokens.items():
        found = (await client.sessions.get(session)).seq
        if found != tokens:
            wrong.append(f"{session}: {tokens} tokens acknowledged, {found} in its journal")
    for session in random.Random(1).sample(sorted(life.tokens), min(checked, len(life.tokens))):
        if not (await client.sessions.verify(session)).equal:
            wrong.append(f"{session}: its state is not that of its journal")
    return wrong


def rss_bytes(pid: int) -> int:
    """Resident memory of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"process {pid} does not tell its memory")


def slope(points: list[tuple[int, int]]) -> float:
    """Bytes a turn, least squares over the later half."""
    late = points[len(points) // 2 :]
    if len({turn for turn, _ in late}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*late, strict=True)).slope


def read(url: str) -> str:
    """The text at ``url``."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def host_tier(metrics: str) -> dict[str, float]:
    """The server's figures of states that had to leave their slot."""
    lines = (line for line in metrics.splitlines() if line.startswith("hope:host_state"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    flags = ["--slots", str(args.slots), "--max-waiting", str(args.concurrency)]
    flags += ["--threads", str(args.threads)] if args.threads else []
    life = Life()
    with tempfile.TemporaryDirectory() as folder:
        process, url = start_server(args.model, Path(folder), *flags)
        try:
            async with AsyncClient(base_url=url, timeout=600) as client:
                started = time.perf_counter()
                await live(client, life, args, process.pid)
                seconds = time.perf_counter() - started
                wrong = await losses(client, life, args.verify)
            metrics = await asyncio.to_thread(read, f"{url}/metrics")
        finally:
            process.terminate()
            process.communicate()  # closes its output too
    extra = [cold - warm for cold, warm in zip(life.cold_s, life.warm_s, strict=True)]
    return {
        "sessions": args.sessions,
        "slots": args.slots,
        "turns": life.turns,
        "turns_per_s": life.turns / seconds,
        "broken_off": life.broken,
        "wrong": wrong,
        "cold_ttft_s": summary(life.cold_s),
        "warm_ttft_s": summary(life.warm_s),
        "extra_s": summary(extra),
        "rss_bytes": [value for _, value in life.rss],
        "rss_slope_bytes_per_turn": slope(life.rss),
        "host_tier": host_tier(metrics),
    }


def table(found: dict[str, Any]) -> str:
    """As text."""
    rss, extra = found["rss_bytes"], found["extra_s"]
    lines = [
        f"{found['sessions']} sessions, {found['slots']} slots: {found['turns']} turns, "
        f"{found['turns_per_s']:.1f} turns/s, {found['broken_off']} broken off, "
        f"{len(found['wrong'])} sessions lost something",
        *found["wrong"][:5],
    ]
    if extra is not None:
        lines.append(
            f"time to first token, ms: cold p50 {1e3 * found['cold_ttft_s']['p50']:.1f}, warm "
            f"{1e3 * found['warm_ttft_s']['p50']:.1f}; a cold turn's extra p50 {1e3 * extra['p50']:.1f}, "
            f"p99 {1e3 * extra['p99']:.1f}"
        )
    if rss:
        lines.append(
            f"resident memory, MB: first {rss[0] / 1e6:.0f}, median {percentile(rss, 50) / 1e6:.0f}, "
            f"last {rss[-1] / 1e6:.0f}; slope of the later half "
            f"{found['rss_slope_bytes_per_turn']:.0f} bytes a turn"
        )
    lines += [f"{name} {value:.0f}" for name, value in found["host_tier"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="hope-tiny")
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--threads", type=int, help="of the server (default: its own)")
    parser.add_argument("--verify", type=int, default=20, help="sessions that are computed anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(arguments)
    found = asyncio.run(measure(args))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
