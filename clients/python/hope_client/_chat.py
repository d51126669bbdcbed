"""The conversation of `hope chat`: reads lines, streams answers, runs the slash commands."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hope_client import wire
from hope_client._requests import GenerationOptions
from hope_client.client import Client
from hope_client.errors import HopeClientError

PROMPT = "> "


def printable(text: str) -> str:
    """The text with every character that a terminal would obey (escapes, direction marks) replaced."""
    return "".join(char if _is_harmless(char) else "\N{REPLACEMENT CHARACTER}" for char in text)


def _is_harmless(char: str) -> bool:
    if char in "\n\t":
        return True
    return unicodedata.category(char) not in ("Cc", "Cs") and char not in _BIDIRECTIONAL


_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class _Command:
    name: str
    arguments: str
    help: str
    run: Callable[[str], None]


class ChatLoop:
    """One conversation with one session.

    Each turn sends only what the session has not read yet: the session is the memory. Ctrl-C stops a turn,
    Ctrl-D leaves. `read_line(prompt)` behaves like `input`.
    """

    def __init__(
        self,
        client: Client,
        session: wire.Session,
        console: Console,
        *,
        options: GenerationOptions,
        system: str | None,
        resume_command: str,
        read_line: Callable[[str], str],
    ) -> None:
        self._client = client
        self._session_id = session.id
        self._console = console
        self._options = options
        self._system = system
        self._unread_system = system
        self._resume_command = resume_command
        self._read_line = read_line
        self._transcript: list[tuple[str, str]] = []
        self._saved: set[Path] = set()
        self._leaving = False
        commands = (
            _Command("/help", "", "show this list", self._help),
            _Command("/levels", "", "show what each level of the session has learned", self._levels),
            _Command("/quit", "", "leave; the session stays on the server", self._quit),
            _Command("/reset", "", "take the session back to its beginning", self._reset),
            _Command("/save", "[FILE]", "write the conversation of this terminal to a file", self._save),
        )
        self._commands = {command.name: command for command in commands}
        self._greet(session)

    def run(self) -> int:
        """Talk until the user leaves. Returns the exit status."""
        while not self._leaving:
            try:
                line = self._read_line(PROMPT)
            except EOFError:
                self._console.out("")
                break
            except KeyboardInterrupt:
                self._note("\n/quit or Ctrl-D leaves")
                continue
            try:
                self._take(line)
            except KeyboardInterrupt:
                self._note("\nstopped")
            except HopeClientError as error:
                self._fail(str(error))
        self._note(f"resume with: {self._resume_command}")
        return 0

    def _take(self, line: str) -> None:
        """Run a command, or send the line. A leading // sends a text that begins with a slash."""
        if not line.strip():
            return
        if not line.startswith("/"):
            self._turn(line)
        elif line.startswith("//"):
            self._turn(line[1:])
        else:
            name, _, argument = line.strip().partition(" ")
            command = self._commands.get(name)
            if command is None:
                self._fail(f"unknown command {name}; /help lists them")
            else:
                command.run(argument.strip())

    def _turn(self, text: str) -> None:
        messages: list[dict[str, object]] = [{"role": "user", "content": text}]
        if self._unread_system is not None and self._session_is_empty():
            messages.insert(0, {"role": "system", "content": self._unread_system})
        with self._client.chat(messages, stream=True, **self._options) as stream:
            self._unread_system = None
            self._transcript.append(("you", text))
            answer: list[str] = []
            try:
                for piece in stream.text():
                    answer.append(piece)
                    self._show(piece)
            finally:
                self._console.out("")
                self._transcript.append(("model", "".join(answer)))
        if stream.finish_reason == "length":
            self._note("(the answer reached its token limit)")

    def _show(self, piece: str) -> None:
        """Past rich, which would expand tabs as if each piece began a line."""
        self._console.file.write(printable(piece))
        self._console.file.flush()

    def _session_is_empty(self) -> bool:
        """Asked anew: a turn that Ctrl-C stopped early may have been read, or not."""
        return self._client.sessions.get(self._session_id).tokens == 0

    def _levels(self, _argument: str) -> None:
        levels = self._client.sessions.levels(self._session_id).levels
        table = Table("level", *_NUMBER_COLUMNS)
        for column in table.columns[1:]:
            column.justify = "right"
        for level in levels:
            table.add_row(printable(level.name), *_level_cells(level))
        self._console.print(table)
        self._note(f"{sum(level.bytes for level in levels):,} bytes in this session")
        if self._client.sessions.get(self._session_id).learning == "frozen":
            self._note("this session learns no more: three of a level's writes in a row were refused")

    def _reset(self, _argument: str) -> None:
        self._client.sessions.reset(self._session_id)
        self._unread_system = self._system
        self._transcript.append(("reset", ""))
        self._note("the session is back at its beginning")

    def _save(self, argument: str) -> None:
        path = Path(argument or f"hope-chat-{self._session_id}.md").expanduser()
        # Only a file of this conversation is written over.
        mode = "w" if path in self._saved else "x"
        try:
            with path.open(mode, encoding="utf-8", errors="replace") as file:
                file.write(self._transcript_text())
        except OSError as error:
            self._fail(f"/save: {error}")
            return
        self._saved.add(path)
        self._note(f"wrote {path}\nsession {self._session_id}, resume with: {self._resume_command}")

    def _transcript_text(self) -> str:
        head = f"# Session {self._session_id}\n\nResume with `{self._resume_command}`.\n"
        turns = (f"\n## {role}\n\n{text}\n" if text else f"\n## {role}\n" for role, text in self._transcript)
        return head + "".join(turns)

    def _help(self, _argument: str) -> None:
        for command in self._commands.values():
            usage = f"{command.name} {command.arguments}".strip()
            self._console.out(f"{usage:<14}{command.help}", highlight=False)
        self._note("//text sends /text; Ctrl-C stops an answer; Ctrl-D leaves")

    def _quit(self, _argument: str) -> None:
        self._leaving = True

    def _greet(self, session: wire.Session) -> None:
        name = f" {printable(session.name)!r}" if session.name else ""
        state = f"{session.tokens:,} tokens read" if session.tokens else "new"
        self._note(f"session {session.id}{name} ({state}); /help lists the commands")

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _fail(self, text: str) -> None:
        text = printable(text)
        self._console.print(text, style="red", markup=False, highlight=False, emoji=False, soft_wrap=True)


_NUMBER_COLUMNS = ("period", "tokens", "writes", "refused", "f_k", "drift", "bytes")


def _level_cells(level: wire.LevelStatus) -> tuple[str, ...]:
    """The cells below _NUMBER_COLUMNS; f_k is counted writes per token."""
    return (
        "frozen" if level.period is None else str(level.period),
        f"{level.tokens:,}",
        f"{level.writes:,}",
        f"{level.refused:,}",
        f"{level.frequency:.6g}",
        f"{level.drift_ratio:.4f}",
        f"{level.bytes:,}",
    )
