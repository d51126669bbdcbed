"""`hope replay`: a session's journal as it was, and whether its state is that of its journal."""

import argparse
from typing import TYPE_CHECKING

from hope_client import wire
from hope_client._command import add_url, complain, connect, journal
from hope_client.errors import HopeClientError

if TYPE_CHECKING:
    from hope_client._command import Subparsers

DIFFERS = 1
FAILED = 2


def add_replay_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """Add `replay` to the subcommands; the parsed namespace gets `run_command=run_replay`."""
    parser = subparsers.add_parser(
        "replay",
        help="print a session's journal, or compute its state again and compare",
        description="Print what a session has read and written. The API key comes from HOPE_API_KEY.",
    )
    parser.add_argument("session", metavar="SESSION", help="id of the session")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compute the state from the journal and compare hashes instead: status 1 if they differ",
    )
    add_url(parser)
    parser.set_defaults(run_command=run_replay)
    return parser


def run_replay(args: argparse.Namespace) -> int:
    """Returns the exit status: 0, 1 when the hashes differ, 2 when the server cannot tell."""
    try:
        with connect(args) as client:
            if args.verify:
                return _report(client.sessions.verify(args.session))
            for event in journal(client, args.session):
                print(f"{event.seq:8}  {event.kind:8}  {event.origin:8}  {_shown(event)}")
            return 0
    except HopeClientError as error:
        complain("replay", error)
        return FAILED


def _report(found: wire.Verification) -> int:
    print(f"tokens    {found.tokens} (journal up to {found.seq})")
    print(f"journal   {found.head_sha256}")
    print(f"replayed  {found.replayed_sha256}")
    print(f"restored  {found.restored_sha256} (snapshot at {found.snapshot_seq})")
    print("equal" if found.equal else "DIFFERENT")
    return 0 if found.equal else DIFFERS


def _shown(event: wire.Event) -> str:
    """A token's number and its text, in ASCII: a terminal does nothing that a text says."""
    if event.token is None:
        return ""
    return f"{event.token} {event.text or ''!a}" + ("" if event.learn == "on" else "  learn off")
