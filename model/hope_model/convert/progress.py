"""What a long conversion says while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress(Protocol):
    """Called many times a step: ``done`` of ``total`` units of the work that ``step`` names.

    total: 0 for a step that is announced once and whose end nobody can foresee.
    """

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None: ...


def silent(step: str, done: int = 0, total: int = 0) -> None:
    """A `Progress` that says nothing."""


@contextmanager
def console_progress() -> Iterator[Progress]:
    """Show steps on stderr: a bar for each, or a line where stderr is no terminal."""
    console = _Console()
    try:
        yield console
    finally:
        console.close()


class _Console:
    """Draws one step at a time. A step without a total gets a line: whoever does it may draw a bar itself."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._step = ""
        self._bar: Bar | None = None

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        if step != self._step:
            self.close()
            self._step = step
            if total and self._console.is_terminal:
                self._bar = self._start_bar(step)
            else:
                self._console.print(step, markup=False, highlight=False)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self, step: str) -> "Bar":
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        name = TextColumn("{task.description}", markup=False)
        bar = Progress(name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=self._console)
        bar.add_task(step, total=None)
        bar.start()
        return bar
