"""`hope session`: list, look at, copy, take back, move and delete sessions from the command line."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hope_client import wire
from hope_client._command import add_url, complain, connect, one_line
from hope_client.client import Client
from hope_client.errors import HopeClientError

if TYPE_CHECKING:
    from hope_client._command import Subparsers

FAILED = 1
Action = Callable[[Client, argparse.Namespace], None]


def add_session_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """Add `session` to the subcommands; the parsed namespace gets `run_command=run_session`."""
    parser = subparsers.add_parser(
        "session",
        help="list, copy, move and delete sessions",
        description="Work with the sessions of a server. The API key comes from HOPE_API_KEY.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add(actions, "ls", _ls, "list all sessions, oldest first")
    _add(actions, "show", _show, "one session, and what each of its levels has done", "ID")
    fork = _add(actions, "fork", _fork, "a copy as of any journal entry; prints its id", "ID")
    fork.add_argument("--seq", type=int, metavar="N", help="the journal entry (default: the last one)")
    fork.add_argument("--name", help="name of the copy")
    rollback = _add(actions, "rollback", _rollback, "take a session back; its journal keeps what was", "ID")
    rollback.add_argument("--seq", type=int, metavar="N", required=True, help="the last entry that counts")
    diff = _add(actions, "diff", _diff, "how each level changed between two journal entries", "ID")
    diff.add_argument("--from", dest="from_seq", type=int, default=0, metavar="N", help="the first (0)")
    diff.add_argument("--to", dest="to_seq", type=int, metavar="N", help="the second (the last one)")
    export = _add(actions, "export", _export, "write a session to a file", "ID")
    export.add_argument("--out", type=Path, metavar="FILE", help="the file to write (default: ID.hope)")
    _add(actions, "import", _import, "a new session from such a file; prints its id", "FILE")
    rm = _add(actions, "rm", _rm, "delete sessions with all that they learned")
    rm.add_argument("ids", metavar="ID", nargs="+")
    parser.set_defaults(run_command=run_session)
    return parser


def _add(
    actions: "Subparsers", name: str, action: Action, text: str, argument: str | None = None
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if argument is not None:
        parser.add_argument(argument.lower(), metavar=argument, type=Path if argument == "FILE" else str)
    add_url(parser)
    parser.set_defaults(run_action=action)
    return parser


def run_session(args: argparse.Namespace) -> int:
    """Returns the exit status: 0, or 1 with a line on stderr."""
    action: Action = args.run_action
    try:
        with connect(args) as client:
            action(client, args)
            return 0
    except (HopeClientError, OSError) as error:
        complain(f"session {args.action}", error)
        return FAILED


def _ls(client: Client, args: argparse.Namespace) -> None:
    after, found = None, False
    while True:
        page = client.sessions.list(after=after)
        for session in page.data:
            print(_line(session))
            found = True
        if not page.has_more:
            break
        after = page.last_id
    if not found:
        print("no sessions yet: hope chat makes one", file=sys.stderr)


def _show(client: Client, args: argparse.Namespace) -> None:
    session = client.sessions.get(args.id)
    print(_line(session))
    if session.learning == "frozen":
        print("  learning has ended: writes were refused; a rollback to before that begins it again")
    for level in client.sessions.levels(args.id).levels:
        period = "frozen" if level.period is None else f"every {level.period}"
        print(
            f"  {level.name:12}  {period:10}  {level.writes:>9,} writes  {level.refused} refused  "
            f"drift {level.drift_ratio:<8.4g}  {level.bytes:>11,} bytes"
        )


def _fork(client: Client, args: argparse.Namespace) -> None:
    print(client.sessions.fork(args.id, seq=args.seq, name=args.name).id)


def _rollback(client: Client, args: argparse.Namespace) -> None:
    print(_line(client.sessions.rollback(args.id, seq=args.seq)))


def _diff(client: Client, args: argparse.Namespace) -> None:
    found = client.sessions.diff(args.id, from_seq=args.from_seq, to_seq=args.to_seq)
    print(f"entry {found.from_seq} ({found.from_tokens} tokens) to {found.to_seq} ({found.to_tokens} tokens)")
    print(f"  {'level':12}  {'writes':>8}  {'norm':>10}  {'relative':>10}  {'max abs':>10}  {'cosine':>8}")
    for level in found.levels:
        relative, cosine = (
            "-" if value is None else f"{value:.4g}" for value in (level.relative, level.cosine)
        )
        print(
            f"  {level.name:12}  {level.writes:8}  {level.norm:10.4g}  {relative:>10}  "
            f"{level.max_abs:10.4g}  {cosine:>8}"
        )


def _export(client: Client, args: argparse.Namespace) -> None:
    """A file of that name appears whole or not at all, readable by its owner alone."""
    out: Path = args.out or Path(f"{args.id}.hope")
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        try:
            size = client.sessions.export_to(args.id, file)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(out)
        except BaseException:
            Path(file.name).unlink()
            raise
    print(f"{size} bytes in {out}")


def _import(client: Client, args: argparse.Namespace) -> None:
    print(client.sessions.import_(args.file.read_bytes()).id)


def _rm(client: Client, args: argparse.Namespace) -> None:
    for session_id in args.ids:
        client.sessions.delete(session_id)


def _line(session: wire.Session) -> str:
    made = datetime.fromtimestamp(session.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    name = "" if session.name is None else one_line(session.name)
    return f"{session.id}  {made}  {session.tokens:9} tokens  entry {session.seq}  {name}".rstrip()
