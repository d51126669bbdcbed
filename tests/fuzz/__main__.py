"""`python -m tests.fuzz --minutes N [TARGET ...]`: libFuzzer on the decoders; needs the extra `fuzz`.

Minutes are for each target. The first input that does something else than it may ends its target's run, with
status 1, and stays in the corpus folder (`--corpus`), from which later runs go on.
`python -m tests.fuzz --flips 1000` flips bits in stored values instead.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.flips import flip
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (default: 1)")
    parser.add_argument("--corpus", type=Path, default=None, help="folder that keeps inputs between runs")
    parser.add_argument("--flips", type=int, default=0, metavar="N", help="instead: flip N bits in a Valkey")
    args = parser.parse_args()
    if args.flips:
        return _flips(args.flips)
    if unknown := set(args.targets) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="hope-fuzz-") as scratch:
        corpus = args.corpus or Path(scratch)
        failed = [name for name in args.targets or TARGETS if not _run(name, args.minutes, corpus)]
    print("failed: " + ", ".join(failed) if failed else "nothing found")
    return 1 if failed else 0


def _flips(count: int) -> int:
    flips = asyncio.run(flip(count, seed=secrets.randbits(32)))
    for kind, tried in sorted(flips.tried.items()):
        print(f"{kind:14} {tried:7,}")
    print(f"{'flipped':14} {flips.tried.total():7,}\n{'unnoticed':14} {len(flips.unnoticed):7,}")
    print("\n".join(flips.unnoticed))
    return 1 if flips.unnoticed else 0


def _run(name: str, minutes: float, corpus: Path) -> bool:
    """One target in a process of its own, which libFuzzer ends."""
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(round(60 * minutes)), str(folder)]
    done = subprocess.run(command, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
