"""`hope keys`: make, end and list API keys. A running server follows at its next request."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from hope_server.config import ServerConfig
from hope_server.errors import StartupError
from hope_server.sessions.key import DEFAULT_TENANT, is_tenant
from hope_server.tenants.api_key import KeyRecord
from hope_server.tenants.key_file import KeyFile

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add `keys` with its actions."""
    parser = subparsers.add_parser(
        "keys",
        help="make, end and list API keys",
        description="API keys of a server. Once there is one, every request needs one.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and print it; it is shown once")
    whose = create.add_mutually_exclusive_group()
    whose.add_argument(
        "--tenant",
        metavar="NAME",
        default=DEFAULT_TENANT,
        help=f"whose sessions it opens (default: {DEFAULT_TENANT}, who also owns what was made without keys)",
    )
    whose.add_argument(
        "--operator", action="store_true", help="a key for /metrics and health checks, without sessions"
    )
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("key_id", metavar="ID", help="its id: what follows hk_, and the first column of list")
    actions.add_parser("list", help="all keys, revoked ones too")
    for action in (create, revoke, actions.choices["list"]):
        _add_places(action)
    parser.set_defaults(run_command=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit status. Raises StartupError."""
    places = {name: getattr(args, name) for name in ("data_dir", "keys_dir") if hasattr(args, name)}
    keys = KeyFile(ServerConfig.load(places).keys_directory)
    if args.action == "create":
        return _create(keys, None if args.operator else args.tenant)
    if args.action == "revoke":
        record = keys.revoke(args.key_id)
        print(f"key {record.id} of {_owner(record)} is revoked")
        return 0
    return _list(keys)


def _add_places(parser: argparse.ArgumentParser) -> None:
    for flag, text in (
        ("--data-dir", "the server's data directory (HOPE_DATA_DIR)"),
        ("--keys-dir", "the keys' own directory (HOPE_KEYS_DIR; default: keys below the data directory)"),
    ):
        parser.add_argument(flag, default=argparse.SUPPRESS, metavar="DIR", help=text)


def _create(keys: KeyFile, tenant: str | None) -> int:
    """The key alone goes to stdout, so that a script can take it."""
    if tenant is not None and not is_tenant(tenant):
        raise StartupError(
            f"--tenant: expected 1 to 31 lower-case letters, digits or '-', found {tenant!r}", param="tenant"
        )
    record, key = keys.create(tenant)
    print(f"key {record.id} of {_owner(record)}; it is shown only now:", file=sys.stderr, flush=True)
    print(key)
    return 0


def _list(keys: KeyFile) -> int:
    for record in keys.records():
        ended = "in force" if record.revoked_at is None else f"revoked {_date(record.revoked_at)}"
        print(f"{record.id}  {_owner(record):38}  made {_date(record.created_at)}  {ended}")
    return 0


def _owner(record: KeyRecord) -> str:
    return "the operator" if record.tenant is None else f"tenant {record.tenant}"


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
