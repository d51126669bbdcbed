"""``hope train`` in a process of its own, with one more configuration: ``CONFIG.json ARGUMENTS...``."""

import argparse
import json
import sys
from pathlib import Path

from hope_model.config import CONFIGS, HopeConfig
from hope_model.train.cli import add_parser


def main() -> int:
    config = HopeConfig.from_dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    CONFIGS[config.name] = config
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["train", *sys.argv[2:]])
    result: int = args.run_command(args)
    return result


if __name__ == "__main__":
    sys.exit(main())
