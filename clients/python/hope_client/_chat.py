"""The conversation of `hope chat`: reads texts, streams answers, runs the slash commands."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hope_client import wire
from hope_client._chat_input import ReadLine
from hope_client._chat_screen import Screen, printable
from hope_client._chat_turn import Turn
from hope_client._requests import ChatOptions
from hope_client.client import Client
from hope_client.errors import HopeClientError

COMMANDS = (
    ("/fork", "[NAME]", "go on in a copy of the session; the session itself stays as it is"),
    ("/help", "", "show this list"),
    ("/learn", "[on|off]", "whether what follows teaches the session"),
    ("/levels", "", "show what each level of the session has learned"),
    ("/quit", "", "leave; the session stays on the server"),
    ("/reset", "", "take the session back to its beginning"),
    ("/rollback", "[SEQ]", "take back the last turn, or all after a journal entry"),
    ("/save", "[FILE]", "write the conversation of this terminal to a file"),
)
"""Name, arguments and purpose of each."""
FROZEN = "this session learns no more: three of a level's writes in a row were refused"


class UsageError(Exception):
    """A command's argument is none. The message says what was expected."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a session stands: its journal's last entry, and whether its state has read nothing."""

    seq: int
    empty: bool

    @classmethod
    def of(cls, session: wire.Session) -> "_Place":
        return cls(session.seq, session.tokens == 0)


@dataclass(frozen=True, slots=True)
class _Told:
    """A part of what `/save` writes; `seq`: where the journal stood before it, None where not known."""

    role: str
    text: str
    seq: int | None = None


class ChatLoop:
    """One conversation with one session.

    Each turn sends only what the session has not read yet: the session is the memory. Ctrl-C stops a turn,
    Ctrl-D leaves. `resume_command(session id)` is what a shell runs to come back.
    """

    def __init__(
        self,
        client: Client,
        session: wire.Session,
        screen: Screen,
        *,
        options: ChatOptions,
        system: str | None,
        resume_command: Callable[[str], str],
        read_line: ReadLine,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._session_id = session.id
        self._place: _Place | None = _Place.of(session)
        self._screen = screen
        self._options = options
        self._system = self._unread_system = system
        self._resume_command = resume_command
        self._read_line = read_line
        self._sleep = sleep
        self._told: list[_Told] = []
        self._saved: set[Path] = set()
        self._leaving = False
        self._commands: dict[str, Callable[[str], None]] = {
            name: getattr(self, f"_{name.removeprefix('/')}") for name, _, _ in COMMANDS
        }
        self._greet(session)

    def run(self) -> int:
        """Talk until the user leaves. Returns the exit status."""
        while not self._leaving:
            try:
                text = self._read_line("> " if self._learns else "(learn off) > ")
            except EOFError:
                self._screen.line("")
                break
            except KeyboardInterrupt:
                self._screen.note("\n/quit or Ctrl-D leaves")
                continue
            try:
                self._take(text)
            except KeyboardInterrupt:
                self._screen.note("\nstopped")
            except (HopeClientError, UsageError) as error:
                self._screen.fail(str(error))
        self._screen.note(f"resume with: {self._resume_command(self._session_id)}")
        return 0

    def _take(self, text: str) -> None:
        """Run a command, or send the text. A leading // sends a text that begins with a slash."""
        if not text.strip():
            return
        if not text.startswith("/"):
            self._turn(text)
        elif text.startswith("//"):
            self._turn(text[1:])
        else:
            name, _, argument = text.strip().partition(" ")
            command = self._commands.get(name)
            if command is None:
                raise UsageError(f"unknown command {name}; /help lists them")
            command(argument.strip())

    def _turn(self, text: str) -> None:
        place = self._where()
        messages: list[dict[str, object]] = [{"role": "user", "content": text}]
        if self._unread_system is not None and place.empty:
            messages.insert(0, {"role": "system", "content": self._unread_system})
        turn = Turn(self._client, self._session_id, messages, self._options, self._away, self._sleep)
        self._place = None
        self._told.append(_Told("you", text, place.seq))
        try:
            with self._screen.answer() as answer:
                turn.run(answer)
        finally:
            if turn.text or turn.finish_reason is not None:
                self._unread_system = None
            self._told.append(_Told("model", turn.text))
        self._close(turn)

    def _close(self, turn: Turn) -> None:
        """Say what is to be said of a turn that came to its end."""
        if turn.hope is not None and turn.hope.seq is not None:
            self._place = _Place(turn.hope.seq, empty=False)
        if turn.broken:
            self._screen.note("(the connection broke; this is what the session has of the answer)")
        elif turn.finish_reason == "length":
            self._screen.note("(the answer reached its token limit)")
        if self._screen.rich and turn.hope is not None:
            self._screen.note(learned(turn.hope) if turn.hope.learning == "on" else f"({FROZEN})")

    def _away(self, error: HopeClientError) -> None:
        self._screen.note(
            f"\nthe server does not answer ({printable(str(error))}); trying again, Ctrl-C stops"
        )

    def _where(self) -> "_Place":
        """Asked anew after a turn whose end is not known."""
        if self._place is None:
            self._place = _Place.of(self._client.sessions.get(self._session_id))
        return self._place

    @property
    def _learns(self) -> bool:
        return self._options.get("learn") != "off"

    # The commands

    def _fork(self, argument: str) -> None:
        old = self._session_id
        session = self._client.sessions.fork(old, name=argument or None)
        self._session_id, self._place = session.id, _Place.of(session)
        self._screen.note(f"now in {session.id}, a copy of {old}")

    def _help(self, _argument: str) -> None:
        for name, arguments, text in COMMANDS:
            self._screen.line(f"{f'{name} {arguments}':<18}{text}")
        self._screen.note(
            "//text sends /text; a line that ends in \\ goes on; Ctrl-C stops an answer; Ctrl-D leaves"
        )

    def _learn(self, argument: str) -> None:
        if argument not in ("", "on", "off"):
            raise UsageError(f"/learn: expected on or off, found {argument}")
        if argument:
            self._options["learn"] = "on" if argument == "on" else "off"
        self._screen.note("turns teach the session" if self._learns else "turns teach the session nothing")

    def _levels(self, _argument: str) -> None:
        self._screen.levels(self._client.sessions.levels(self._session_id).levels)
        if self._client.sessions.get(self._session_id).learning == "frozen":
            self._screen.note(FROZEN)

    def _quit(self, _argument: str) -> None:
        self._leaving = True

    def _reset(self, _argument: str) -> None:
        self._place = _Place.of(self._client.sessions.reset(self._session_id))
        self._unread_system = self._system
        self._told.append(_Told("reset", ""))
        self._screen.note("the session is back at its beginning")

    def _rollback(self, argument: str) -> None:
        if argument:
            if not argument.isdecimal():
                raise UsageError(f"/rollback: expected a number of the journal, found {argument}")
            self._back_to(int(argument))
            self._told.append(_Told(f"rollback to {argument}", ""))
            return
        last = max((index for index, told in enumerate(self._told) if told.role == "you"), default=None)
        if last is None or any(told.role not in ("you", "model") for told in self._told[last:]):
            raise UsageError("/rollback: no turn of this terminal to take back; /rollback SEQ goes further")
        told = self._told[last]
        assert told.seq is not None
        self._back_to(told.seq)
        del self._told[last:]
        self._screen.note(f"taken back: {printable(told.text.splitlines()[0][:60])}")

    def _back_to(self, seq: int) -> None:
        session = self._client.sessions.rollback(self._session_id, seq=seq)
        self._place = _Place.of(session)
        if self._place.empty:
            self._unread_system = self._system
        self._screen.note(f"the session is as it was after entry {seq}: {session.tokens:,} tokens read")

    def _save(self, argument: str) -> None:
        path = Path(argument or f"hope-chat-{self._session_id}.md").expanduser()
        # Only a file of this conversation is written over.
        mode = "w" if path in self._saved else "x"
        try:
            with path.open(mode, encoding="utf-8", errors="replace") as file:
                file.write(self._transcript())
        except OSError as error:
            raise UsageError(f"/save: {error}") from error
        self._saved.add(path)
        resume = self._resume_command(self._session_id)
        self._screen.note(f"wrote {path}\nsession {self._session_id}, resume with: {resume}")

    def _transcript(self) -> str:
        head = f"# Session {self._session_id}\n\nResume with `{self._resume_command(self._session_id)}`.\n"
        parts = (f"\n## {told.role}\n" + (f"\n{told.text}\n" if told.text else "") for told in self._told)
        return head + "".join(parts)

    def _greet(self, session: wire.Session) -> None:
        name = f" {printable(session.name)!r}" if session.name else ""
        state = f"{session.tokens:,} tokens read" if session.tokens else "new"
        self._screen.note(f"session {session.id}{name} ({state}); /help lists the commands")


def learned(turn: wire.HopeTurn) -> str:
    """What a turn taught, in a line."""
    writes = ", ".join(f"{name} {count}" for name, count in turn.level_writes.items() if count)
    return f"(learned {turn.learned_tokens} tokens; writes: {printable(writes) or 'none'})"
