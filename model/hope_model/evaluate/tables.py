"""Tables of reports."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def distinct(values: Sequence[object]) -> list[str]:
    """Each once, as text, in the order of their first coming."""
    return list(dict.fromkeys(map(str, values)))
