"""Where the lines of `hope chat` come from: an editor at a terminal, plain lines elsewhere."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

ReadLine = Callable[[str], str]
"""Behaves like `input`: raises EOFError at the end, KeyboardInterrupt at Ctrl-C."""
CONTINUED = "\\"
"""At a line's end: the text goes on with the next line."""


def line_reader(commands: Sequence[str], *, history: Path | None, plain: bool) -> ReadLine:
    """The reader for where this process stands.

    Args:
        commands: what Tab completes at a text's beginning.
        history: file of what was typed before, None for none.
        plain: no editor, also at a terminal.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Invalid text then arrives marked, and the request is refused instead of the program failing.
        sys.stdin.reconfigure(errors="surrogateescape")
    if not sys.stdin.isatty():
        return continued(lambda _prompt: input())
    if plain or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (importing it gives input() line editing)
        return continued(input)
    return editor(commands, history)


def continued(read_line: ReadLine) -> ReadLine:
    """`read_line`, which goes on while a line ends in a backslash."""

    def read(prompt: str) -> str:
        lines = [read_line(prompt)]
        while lines[-1].endswith(CONTINUED):
            lines[-1] = lines[-1].removesuffix(CONTINUED)
            lines.append(read_line("... "))
        return "\n".join(lines)

    return read


def editor(commands: Sequence[str], history: Path | None) -> ReadLine:
    """Enter sends; Alt-Enter, or Enter after a backslash, begins a new line, and what is pasted keeps its."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter

    session: PromptSession[str] = PromptSession(
        history=history_of(history),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        enable_history_search=True,
        key_bindings=_keys(),
        multiline=True,
        prompt_continuation="... ",
    )
    return session.prompt


def _keys() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith(CONTINUED):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return keys


def history_file() -> Path:
    """In the user's state directory."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "hope" / "chat_history"


def history_of(path: Path | None) -> "History":
    """Of a file that its owner alone can read; in memory where there can be none."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
