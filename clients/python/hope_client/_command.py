"""What `hope chat`, `session` and `replay` share: where the server is, a journal, a line for stderr."""

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hope_client import wire
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


def journal(
    client: Client, session_id: str, *, after: int = 0, last: int | None = None
) -> Iterator[wire.Event]:
    """The entries behind the seq `after`, up to `last` (None: to the journal's end), read page by page."""
    while last is None or after < last:
        page = client.sessions.events(session_id, after=after)
        for event in page.events:
            if last is not None and event.seq > last:
                return
            yield event
        after = page.events[-1].seq if page.events else page.head
        if after >= page.head:
            return


def complain(command: str, error: Exception) -> None:
    """Say on stderr why `command` failed."""
    print(f"hope {command}: {one_line(str(error))}", file=sys.stderr)


def one_line(text: str) -> str:
    """`text` as one line that a terminal prints and does not obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
