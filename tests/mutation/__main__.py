"""`python -m tests.mutation [NAME ...]`: makes each mutation that has one of the words in its name (default:
all) and prints which test kills it. Exits with 1 if one survives, or no longer fits the source."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.mutation.matrix import check_fits, copy_tree, outcomes
from tests.mutation.mutations import MUTATIONS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME", help="a word of the mutations to make")
    args = parser.parse_args()
    chosen = [one for one in MUTATIONS if not args.words or any(word in one.name for word in args.words)]
    for mutation in chosen:
        check_fits(mutation)
    width, started, survivors = max(len(one.name) for one in MUTATIONS), time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="hope-mutation-") as folder:
        for outcome in outcomes(chosen, copy_tree(Path(folder))):
            survivors += not outcome.killed
            killer = outcome.killers[0] if outcome.killed else "SURVIVED " + " ".join(outcome.mutation.tests)
            print(f"{outcome.mutation.name:{width}}  {killer}", flush=True)
    seconds = round(time.monotonic() - started)
    print(f"{len(chosen) - survivors} of {len(chosen)} killed in {seconds} s")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
