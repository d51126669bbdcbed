"""`hope chat`: its arguments, and the connection it talks over. The server's command line mounts it."""

import argparse
import io
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hope_client import wire
from hope_client._command import add_url, connect
from hope_client._requests import ChatOptions
from hope_client._transport import DEFAULT_URL
from hope_client.client import Client
from hope_client.errors import HopeClientError

if TYPE_CHECKING:
    from rich.console import Console

    from hope_client._chat_input import ReadLine
    from hope_client._command import Subparsers


def add_chat_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """Add `chat` to the subcommands; the parsed namespace gets `run_command=run_chat`."""
    parser = subparsers.add_parser(
        "chat",
        help="chat with a session in the terminal",
        description="Chat with a session that learns. Without --session a new one is created.",
    )
    add_url(parser)
    parser.add_argument("--session", metavar="ID", help="resume this session")
    parser.add_argument("--name", help="name of the new session")
    parser.add_argument("--system", metavar="TEXT", help="system message of a session that has read nothing")
    parser.add_argument("--model", help="model to ask for (default: the one that is served)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of one answer")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 always takes the likeliest token")
    parser.add_argument("--top-p", type=float, metavar="P", help="sample from the likeliest share of mass P")
    parser.add_argument("--top-k", type=int, metavar="K", help="sample from the K likeliest tokens")
    parser.add_argument("--seed", type=int, metavar="N", help="sample the same answer to the same history")
    parser.add_argument("--learn", choices=("on", "off"), help="off: turns teach the session nothing")
    parser.add_argument("--plain", action="store_true", help="text as it is: no Markdown, no editor")
    parser.add_argument("--no-history", action="store_true", help="forget what was typed")
    parser.set_defaults(run_command=run_chat)
    return parser


def run_chat(
    args: argparse.Namespace,
    *,
    console: "Console | None" = None,
    read_line: "ReadLine | None" = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the chat until the user leaves. Returns the exit status: 0, or 1 when it could not begin."""
    from hope_client._chat import COMMANDS, ChatLoop
    from hope_client._chat_input import history_file, line_reader
    from hope_client._chat_screen import Screen

    screen = Screen(console or _terminal(), plain=args.plain)
    if read_line is None:
        names, history = [name for name, _, _ in COMMANDS], None if args.no_history else history_file()
        read_line = line_reader(names, history=history, plain=args.plain)
    try:
        with connect(args) as client:
            session = _session(client, args)
            return ChatLoop(
                client,
                session,
                screen,
                options=_turn_options(args),
                system=args.system,
                resume_command=partial(_resume_command, args.url),
                read_line=read_line,
                sleep=sleep,
            ).run()
    except KeyboardInterrupt:
        return 1
    except HopeClientError as error:
        screen.fail(f"hope chat: {error}")
        return 1


def _terminal() -> "Console":
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        # An answer may hold what the terminal's encoding does not.
        sys.stdout.reconfigure(errors="replace")
    return Console()


def _session(client: Client, args: argparse.Namespace) -> wire.Session:
    """The session to talk to. Raises HopeClientError when it does not exist or the options do not fit it."""
    if args.session is None:
        return client.sessions.create(args.name)
    if args.name is not None:
        raise HopeClientError("--name: expected a new session, but --session resumes one")
    session = client.sessions.get(args.session)
    if args.system is not None and session.tokens > 0:
        # It would be read as one more message, in the middle of the conversation.
        found = f"{session.tokens:,} tokens read"
        raise HopeClientError(f"--system: expected a session that has read nothing, got {found}")
    return session


def _turn_options(args: argparse.Namespace) -> ChatOptions:
    return {
        "model": args.model,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "seed": args.seed,
        "learn": args.learn,
    }


def _resume_command(url: str, session_id: str) -> str:
    place = "" if url == DEFAULT_URL else f" --url {url}"
    return f"hope chat --session {session_id}{place}"
