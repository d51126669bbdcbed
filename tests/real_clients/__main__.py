"""lm-eval beside `hope eval task`, in its process and with `--url`, as one table."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.server_process import ServerProcess
from tests.real_clients.benchmarks import BENCHMARKS
from tests.real_clients.comparison import MAX_LENGTH, Found, furthest, hope_eval, lm_eval, write_files

HEADER = """| task | rows | figure | lm-eval | `hope eval` | with `--url` | apart, nats | with `--url` |
|---|---|---|---|---|---|---|---|"""


def main() -> int:
    """Print the table; the exit status is 1 if a figure differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_clients", description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(BENCHMARKS), help="default: all nine")
    parser.add_argument("--kit", type=Path, default=Path("../shared/kit"), help="default: %(default)s")
    parser.add_argument("--model", default="hope-tiny", help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--articles", type=int, default=5, help="of WikiText; default: %(default)s")
    args = parser.parse_args()
    if unknown := set(args.tasks) - set(BENCHMARKS):
        parser.error(f"tasks: expected some of {', '.join(BENCHMARKS)}, found {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="hope-lm-eval-") as folder:
        return compare(args, Path(folder))


def compare(args: argparse.Namespace, root: Path) -> int:
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(root / "hugging-face"),
    }
    server = ServerProcess(root / "data", "--model", args.model)
    try:
        files = write_files(args.kit, root / "files", args.tasks, rows=args.rows, articles=args.articles)
        with took("lm-eval"):
            theirs = lm_eval(files, server.url, env, model=args.model, num_concurrent=4)
        with took("hope eval"):
            own = hope_eval(files, args.model, window=MAX_LENGTH - 2)
        with took("hope eval --url"):
            served = hope_eval(files, args.model, window=MAX_LENGTH - 2, url=server.url)
    finally:
        server.kill()
    print(HEADER)
    same = [print_task(name, theirs[name], own[name], served[name]) for name in args.tasks]
    return 0 if all(same) else 1


def print_task(name: str, theirs: Found, own: Found, served: Found) -> bool:
    """One row a figure; whether all are the same to four places."""
    apart = f"{furthest(own, theirs):.1e} | {furthest(served, theirs):.1e}"
    same = True
    for figure, value in theirs.figures.items():
        if isinstance(value, float) and not figure.endswith("_stderr"):
            shown = [f"{each:.4f}" for each in (value, own.figures[figure], served.figures[figure])]
            print(f"| {name} | {len(theirs.nats)} | {figure} | {' | '.join(shown)} | {apart} |")
            same = same and all(
                abs(each.figures[figure] / value - 1) < 1e-4 if value else not each.figures[figure]
                for each in (own, served)
            )
    return same


@contextlib.contextmanager
def took(what: str) -> Iterator[None]:
    """Say on stderr how long it took, and nothing of what it prints."""
    start = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    print(f"{what}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
