"""What `hope chat` shows: answers as Markdown while they come, notes, tables of levels. Plain elsewhere."""

import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Table

from hope_client import wire

REFRESH_S = 0.05
"""A text is drawn at most so often while it comes."""
BAR_CELLS = 12
_FENCES = ("```", "~~~")
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text with every character that a terminal would obey (escapes, direction marks) replaced."""
    return "".join(char if _is_harmless(char) else "\N{REPLACEMENT CHARACTER}" for char in text)


def _is_harmless(char: str) -> bool:
    if char in "\n\t":
        return True
    return unicodedata.category(char) not in ("Cc", "Cs") and char not in _BIDIRECTIONAL


class Screen:
    """A terminal, or a file that gets plain text. `plain` shows an answer's text as it is everywhere."""

    def __init__(
        self, console: Console, *, plain: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self.rich = console.is_terminal and not plain and not console.is_dumb_terminal
        self._clock = clock

    def answer(self) -> "PlainAnswer | MarkdownAnswer":
        """Shows one answer piece by piece; a context, which ends its last line."""
        return MarkdownAnswer(self.console, self._clock) if self.rich else PlainAnswer(self.console)

    def note(self, text: str) -> None:
        """Something about the chat, in a low voice."""
        self._line(text, "dim")

    def fail(self, text: str) -> None:
        """What went wrong."""
        self._line(printable(text), "red")

    def line(self, text: str) -> None:
        """A line as it is."""
        self.console.out(text, highlight=False)

    def levels(self, levels: Sequence[wire.LevelStatus]) -> None:
        """A table of what each level has done, with a bar for how far it has moved.

        80 columns have room for all figures; where there are fewer, the bar gives way first.
        """
        titles = ("level", "period", "tokens", "writes", "refused", "f_k", "drift", "", "bytes")
        table = Table(*titles, padding=0)
        for index, column in enumerate(table.columns):
            column.justify = "left" if index in (0, 7) else "right"
            column.no_wrap = index != 7
        table.columns[7].overflow = "crop"
        most = max((level.drift_ratio for level in levels), default=0.0)
        for level in levels:
            name, *cells, size = _level_cells(level)
            table.add_row(printable(name), *cells, self._bar(level.drift_ratio, most), size)
        self.console.print(table)
        self.note(f"{sum(level.bytes for level in levels):,} bytes in this session")

    def _bar(self, value: float, most: float) -> str:
        """As long as `value` is of `most`; anything above zero shows."""
        cells = max(1, round(BAR_CELLS * value / most)) if most > 0 and value > 0 else 0
        return ("█" if "utf" in self.console.encoding else "#") * cells

    def _line(self, text: str, style: str) -> None:
        self.console.print(text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _level_cells(level: wire.LevelStatus) -> tuple[str, ...]:
    """f_k is counted writes per token."""
    return (
        level.name,
        "frozen" if level.period is None else str(level.period),
        f"{level.tokens:,}",
        f"{level.writes:,}",
        f"{level.refused:,}",
        f"{level.frequency:.6g}",
        f"{level.drift_ratio:.4f}",
        f"{level.bytes:,}",
    )


class PlainAnswer:
    """Pieces as they come, past rich, which would expand tabs as if each piece began a line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def add(self, piece: str) -> None:
        self._console.file.write(printable(piece))
        self._console.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._console.out("")


class MarkdownAnswer:
    """Whole blocks are printed for good; the one that is being written is drawn anew below them."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock = console, clock
        self._open = ""
        self._drawn_s = -REFRESH_S
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def add(self, piece: str) -> None:
        self._open += printable(piece)
        done, self._open = split_blocks(self._open)
        if done:
            self._live.update("")
            self._console.print(_rendered(done))
        now_s = self._clock()
        if done or now_s - self._drawn_s >= REFRESH_S:
            self._drawn_s = now_s
            self._live.update(_rendered(last_lines(self._open, self._console.height - 2)), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()
        if self._open.strip():
            self._console.print(_rendered(self._open))


def split_blocks(text: str) -> tuple[str, str]:
    """What will not change any more, up to the last blank line outside of a fence, and the rest."""
    fence, place, cut = "", 0, 0
    for line in text.splitlines(keepends=True):
        place += len(line)
        stripped = line.strip()
        if fence:
            if stripped.startswith(fence) and not stripped.strip(fence[0]):
                fence = ""
        elif stripped.startswith(_FENCES):
            fence = stripped[:3]
        elif not stripped and line.endswith("\n"):
            cut = place
    return text[:cut], text[cut:]


def last_lines(text: str, count: int) -> str:
    """The end of a block that is too long for the terminal; a fence that was cut off is opened again."""
    lines = text.split("\n")
    if len(lines) <= count:
        return text
    opened = [lines[0]] if lines[0].lstrip().startswith(_FENCES) else []
    return "\n".join(opened + lines[-count:])


def _rendered(text: str) -> Markdown:
    """Links show their address: what is underlined may lead elsewhere. Line breaks stay."""
    return Markdown(hard_breaks(text), code_theme="ansi_dark", hyperlinks=False)


def hard_breaks(text: str) -> str:
    """Markdown joins lines; people who read an answer want its verse as verse."""
    lines, fence = [], False
    for line in text.split("\n"):
        border = line.strip().startswith(_FENCES)
        lines.append(line if fence or border or not line.strip() else line + "  ")
        fence ^= border
    return "\n".join(lines)
