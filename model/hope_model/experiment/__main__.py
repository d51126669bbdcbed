"""``python -m hope_model.experiment``: the command ``hope experiment`` by itself, as its jobs are started."""

import argparse
import sys

from hope_model.errors import HopeModelError
from hope_model.experiment.cli import add_parser


def main() -> int:
    """The exit code, as of ``hope``."""
    parser = argparse.ArgumentParser(prog="hope")
    add_parser(parser.add_subparsers(dest="command", required=True))
    args = parser.parse_args(["experiment", *sys.argv[1:]])
    try:
        status: int = args.run_command(args)
    except (HopeModelError, OSError) as error:  # a full disk, say: one line, as `hope` tells it
        print(f"hope experiment: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
