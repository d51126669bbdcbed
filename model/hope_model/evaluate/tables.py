"""Tables of reports."""

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def about_lines(settings: Mapping[str, Any]) -> list[str]:
    """What was measured and how, as a Markdown list."""
    return [f"- {name}: {_shown(value)}" for name, value in settings.items()]


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return "-" if value is None else str(value)
