"""`python -m tests.chaos --minutes N [--refusals] [--seed S] [--json FILE]`: faults, and what they cost.

Exits with 1 if a token was lost or learned twice, a hash differs, or a byte reached another tenant.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from pathlib import Path

from tests.chaos.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long faults come (default: 20)")
    parser.add_argument("--seed", type=int, default=None, help="of the faults and the clients' choices")
    parser.add_argument(
        "--refusals", action="store_true", help="serve a model whose guards refuse writes and end learning"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    print(f"seed {seed}, {args.minutes:g} minutes", file=sys.stderr, flush=True)
    ledger = asyncio.run(run(seed, 60 * args.minutes, refusals=args.refusals))
    print(ledger.table())
    if args.json is not None:
        args.json.write_text(ledger.to_json() + "\n", encoding="utf-8")
    return 1 if ledger.violations else 0


if __name__ == "__main__":
    sys.exit(main())
