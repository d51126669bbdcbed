"""What durability costs: decode throughput with each token committed to Valkey, beside a store without disk.

    python tests/bench/commit_cost.py [--model hope-tiny] [--sessions 1 16] [--tokens 128] [--rounds 5]

Valkey runs with `appendfsync always`. Both engines serve the same model in one process, by turns; the ratio
is that of the medians, and holds elsewhere. Milliseconds of a commit are those of this disk.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hope_server.config import usable_cores
from hope_server.engine.observer import NullObserver
from hope_server.engine.request import EngineConfig, GenerationRequest, PromptPart, SamplingParams
from hope_server.engine.service import EngineService
from hope_server.engine.threads import use_threads
from hope_server.models import Served, load_served
from hope_server.sessions import open_store
from hope_server.sessions.embedded import EmbeddedValkey
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.store import SessionStore

PROMPT_TOKENS = 16
WARM_TOKENS = 8


@dataclass(frozen=True)
class Figures:
    """Tokens per second over all sessions, medians of the rounds; seconds of a commit, and its tokens."""

    sessions: int
    durable_tokens_per_s: float
    memory_tokens_per_s: float
    ratio: float
    commit_p50_s: float
    commit_p99_s: float
    tokens_per_commit: float


class Commits(NullObserver):
    """How long each took, and how many tokens it held."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens = 0

    def on_commit(self, seconds: float, *, tokens: int) -> None:
        self.seconds.append(seconds)
        self.tokens += tokens


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="hope-tiny", help="as of `hope serve` (default: hope-tiny)")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=128, help="of each answer (default: 128)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: all usable cores")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    use_threads(args.threads)
    served = load_served(args.model, learning=True, threads=args.threads)
    with tempfile.TemporaryDirectory() as directory:
        valkey = EmbeddedValkey(Path(directory), appendfsync="always")
        await valkey.start()
        durable = await open_store(valkey.url, Keyring([b"k" * 32]))
        try:
            figures = [await measure(served, durable, sessions, args) for sessions in args.sessions]
        finally:
            await durable.close()
            await valkey.stop()
    print(table(figures))
    if args.json:
        found = {"model": served.name, "runs": [asdict(each) for each in figures]}
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


async def measure(served: Served, durable: SessionStore, sessions: int, args: argparse.Namespace) -> Figures:
    commits = Commits()
    services = [
        await started(served, store, observer, sessions, args.threads)
        for store, observer in ((durable, commits), (MemoryStore(), NullObserver()))
    ]
    rates: list[list[float]] = [[], []]
    for service in services:
        await decode_rate(service, sessions, WARM_TOKENS)
    commits.seconds.clear()
    commits.tokens = 0
    for number in range(args.rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            rates[which].append(await decode_rate(services[which], sessions, args.tokens))
    for service in services:
        await service.stop(deadline_s=5.0)
    durable_rate, memory_rate = map(statistics.median, rates)
    seconds = statistics.quantiles(commits.seconds, n=100)
    return Figures(
        sessions,
        durable_rate,
        memory_rate,
        durable_rate / memory_rate,
        seconds[49],
        seconds[98],
        commits.tokens / len(commits.seconds),
    )


async def started(
    served: Served, store: SessionStore, observer: NullObserver, sessions: int, threads: int
) -> EngineService:
    service = EngineService(
        served.model,
        store,
        EngineConfig(slots=sessions, threads=threads),
        slow_weights_hash=served.digest,
        observer=observer,
    )
    await service.start()
    return service


async def decode_rate(service: EngineService, sessions: int, tokens: int) -> float:
    """Tokens per second of all sessions together, from the last one's first token to the first one's last."""
    keys = [(await service.create_session("bench")).key for _ in range(sessions)]
    stamps = await asyncio.gather(*(token_times(service, key, seed, tokens) for seed, key in enumerate(keys)))
    for key in keys:
        await service.delete_session(key)
    start, end = max(own[0] for own in stamps), min(own[-1] for own in stamps)
    return sum(start < stamp <= end for own in stamps for stamp in own) / (end - start)


async def token_times(service: EngineService, key: SessionKey, seed: int, tokens: int) -> list[float]:
    prompt = PromptPart("user", tuple(100 + seed + place for place in range(PROMPT_TOKENS)))
    sampling = SamplingParams(seed=seed, max_tokens=tokens, ignore_eos=True)
    request = GenerationRequest(f"bench-{seed}", key, (prompt,), sampling)
    return [time.perf_counter() async for _event in service.generate(request)]


def table(figures: list[Figures]) -> str:
    lines = [
        "| sessions | committed / in memory | tokens/s | a commit, p50 / p99 | its tokens |",
        "|---|---|---|---|---|",
    ]
    for own in figures:
        rates = f"{own.durable_tokens_per_s:.0f} / {own.memory_tokens_per_s:.0f}"
        took = f"{own.commit_p50_s * 1e3:.1f} / {own.commit_p99_s * 1e3:.1f} ms"
        lines.append(f"| {own.sessions} | {own.ratio:.2f} | {rates} | {took} | {own.tokens_per_commit:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    asyncio.run(main())
