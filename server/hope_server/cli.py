"""`hope`: one command, its subcommands imported only when they are used."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from hope_model.errors import HopeModelError
from hope_server.errors import HopeError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Shell = Literal["bash", "zsh", "fish"]
BAD_SETTING = 2
INTERRUPTED = 130
UNREAD = 141


class Command(NamedTuple):
    """A subcommand: `module:function` adds its parser, which sets `run_command`."""

    add_parser: str
    help: str


COMMANDS = {
    "serve": Command("hope_server.cli:add_serve_parser", "serve a model whose sessions learn"),
    "chat": Command("hope_client.cli:add_chat_parser", "chat with a session in the terminal"),
    "session": Command("hope_client.session_cli:add_session_parser", "list, copy, move and delete sessions"),
    "replay": Command("hope_client.replay:add_replay_parser", "print a session's journal, or verify it"),
    "keys": Command("hope_server.tenants.cli:add_parser", "make, end and list API keys"),
    "train": Command("hope_model.train.cli:add_parser", "train a model"),
    "experiment": Command("hope_model.experiment.cli:add_parser", "train and compare all systems"),
    "convert": Command("hope_server.convert:add_parser", "convert a pre-trained model"),
    "eval": Command("hope_server.evaluate:add_parser", "measure a model"),
    "bench": Command("hope_server.bench.cli:add_parser", "measure speed"),
    "completion": Command("hope_server.completion:add_parser", "print a shell's completion script"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hope`; returns the exit status: the command's own, or 2 for bad arguments, settings or files.

    Interrupted it is 130; 141 when whoever reads the output, as `head` does, has gone; 2 when it cannot be
    written, as on a full disk.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), "")
    args = parser_of([chosen]).parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run_command
    try:
        status = run(args)
        _flush()
        return status
    except (HopeError, HopeModelError) as error:
        print(f"hope {args.command}: {_one_line(error)}", file=sys.stderr)
        return BAD_SETTING
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return UNREAD
    except OSError as error:
        # A disk that is full, or a file that may not be read or written; a bug has other types.
        print(f"hope {args.command}: {_said(error)}", file=sys.stderr)
        try:
            _flush()
        except OSError:
            _discard_output()
        return BAD_SETTING


def _flush() -> None:
    if sys.stdout is not None:  # as it is where a shell has closed it: `hope convert ... >&-`
        sys.stdout.flush()


def _discard_output() -> None:
    """At its end Python flushes what is left, which nobody takes either."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: Exception) -> str:
    """What an error says: a name in it, of a file or of a setting, may hold line feeds."""
    return re.sub(r"\s*[\r\n]\s*", " ", str(error))


def _said(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def add_serve_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add `serve`, with one flag for each field of ServerConfig."""
    from hope_server.config import ServerConfig, flag, variable

    parser = subparsers.add_parser(
        "serve",
        help=COMMANDS["serve"].help,
        description="Serve a model whose sessions learn. Flags win over HOPE_* variables.",
    )
    for name, field in ServerConfig.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else default
        text = f"{field.description} ({variable(name)}; default: {shown})".replace("%", "%%")
        if field.annotation is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag(name), action=action, default=argparse.SUPPRESS, help=text)
        else:
            metavar = _metavar(field.annotation)
            parser.add_argument(flag(name), default=argparse.SUPPRESS, metavar=metavar, help=text)
    parser.set_defaults(run_command=run_serve)
    return parser


def run_serve(args: argparse.Namespace) -> int:
    """Serve until a signal. Raises HopeError when the server cannot start."""
    from hope_server.config import ServerConfig

    flags = {name: value for name, value in vars(args).items() if name in ServerConfig.model_fields}
    config = ServerConfig.load(flags)
    from hope_server.serve import run

    return run(config)


def parser_of(chosen: Collection[str]) -> argparse.ArgumentParser:
    """The parser; only the chosen subcommands' arguments are known to it, and their modules imported."""
    parser = argparse.ArgumentParser(
        prog="hope", description="A server for language models whose sessions learn."
    )
    parser.add_argument("--version", action="version", version=f"hope-serve {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        if name in chosen:
            module, _, function = command.add_parser.partition(":")
            getattr(import_module(module), function)(subparsers)
        else:
            subparsers.add_parser(name, help=command.help)
    return parser


def _metavar(annotation: object) -> str:
    kinds: dict[object, str] = {int: "N", float: "S"}
    values = [value for value in get_args(annotation) if isinstance(value, str)]
    return "{" + ",".join(values) + "}" if values else kinds.get(annotation, "TEXT")


def _version() -> str:
    try:
        return version("hope-serve")
    except PackageNotFoundError:
        return "(not installed)"
