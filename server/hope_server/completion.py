"""`hope completion`: a script that lets a shell complete hope's commands and flags."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import shtab

from hope_server.cli import COMMANDS, Shell, parser_of

if TYPE_CHECKING:
    from hope_server.cli import Subparsers

HOW = """\
bash:  hope completion bash > ~/.local/share/bash-completion/completions/hope
zsh:   hope completion zsh > "${fpath[1]}/_hope"
fish:  hope completion fish > ~/.config/fish/completions/hope.fish
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add `completion` to the subcommands."""
    parser = subparsers.add_parser(
        "completion",
        help=COMMANDS["completion"].help,
        description="Print a script for the shell to complete commands and flags with.",
        epilog=HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=get_args(Shell), help="the shell that will read the script")
    parser.set_defaults(run_command=run_completion)
    return parser


def run_completion(args: argparse.Namespace) -> int:
    """Print the script; nothing of it is run at each Tab but the shell itself."""
    print(script(args.shell))
    return 0


def script(shell: Shell) -> str:
    """The script for `shell`."""
    parser = parser_of(COMMANDS)
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in dict.fromkeys(action.choices.values()):
                yield from _actions(each)
        else:
            yield action
