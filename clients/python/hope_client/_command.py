"""What the commands `hope chat`, `session` and `replay` share: where the server is, and a line for stderr."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from hope_client._transport import DEFAULT_URL
from hope_client.client import Client

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add `--url`, which :func:`connect` reads."""
    parser.add_argument(
        "--url",
        default=os.environ.get("HOPE_URL", DEFAULT_URL),
        help=f"address of the server (HOPE_URL; default {DEFAULT_URL})",
    )


def connect(args: argparse.Namespace) -> Client:
    """A client of the server that was named.

    The API key comes from HOPE_API_KEY: on the command line every user of the machine could read it.
    """
    return Client(args.url, api_key=os.environ.get("HOPE_API_KEY"))


def complain(command: str, error: Exception) -> None:
    """Say on stderr why `command` failed."""
    print(f"hope {command}: {one_line(str(error))}", file=sys.stderr)


def one_line(text: str) -> str:
    """`text` as one line that a terminal prints and does not obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
