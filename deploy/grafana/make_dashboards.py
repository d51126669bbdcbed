"""Writes deploy/grafana/dashboards/*.json; with --check only says which differ.

python deploy/grafana/make_dashboards.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hope_dashboards import render

FOLDER = Path(__file__).parent / "dashboards"


def main() -> int:
    """The exit status: 1 if `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Make the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would change")
    check = parser.parse_args().check
    made = render()
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    stale = sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))
    if check:
        for name in stale:
            print(f"{FOLDER / name}: not what the builder makes", file=sys.stderr)
        return 1 if stale else 0
    for name in found.keys() - made.keys():
        (FOLDER / name).unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
