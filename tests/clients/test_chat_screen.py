"""How a growing answer is cut into what is final and what is drawn anew."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hope_client import wire
from hope_client._chat_screen import MarkdownAnswer, Screen, hard_breaks, last_lines, split_blocks

LINES = st.sampled_from(["text", "", "  ", "```", "```py", "~~~", "- item", "> said", "    code", "# Title"])
TEXTS = st.lists(LINES, max_size=12).map("\n".join)


@given(TEXTS, st.data())
def test_blocks_that_are_done_do_not_change_when_more_comes(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    early, _ = split_blocks(text[:cut])
    done, rest = split_blocks(text)
    assert done + rest == text
    assert done.startswith(early)


def test_a_blank_line_ends_a_block_but_not_inside_a_fence() -> None:
    assert split_blocks("one\n\ntwo") == ("one\n\n", "two")
    assert split_blocks("one\n\n```\na\n\nb") == ("one\n\n", "```\na\n\nb")
    assert split_blocks("```\na\n\n```\n\nb") == ("```\na\n\n```\n\n", "b")
    assert split_blocks("one\n") == ("", "one\n")


def test_a_block_longer_than_the_screen_shows_its_end() -> None:
    assert last_lines("a\nb\nc", 2) == "b\nc"
    assert last_lines("```py\na\nb\nc", 2) == "```py\nb\nc"
    assert last_lines("a\nb", 2) == "a\nb"


def test_line_breaks_stay_but_code_is_not_touched() -> None:
    assert hard_breaks("a\nb\n\n```\nc\n```\nd") == "a  \nb  \n\n```\nc\n```\nd  "


@given(TEXTS, st.integers(1, 7))
def test_every_word_of_an_answer_is_printed_once(text: str, size: int) -> None:
    """Whatever the pieces; what is drawn in between is taken away again."""
    words = " ".join(f"w{index}" for index in range(5))
    whole = f"{text}\n\n{words}"
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=30, color_system=None)
    ticks = iter(range(10_000))
    with MarkdownAnswer(console, lambda: 0.001 * next(ticks)) as answer:
        for start in range(0, len(whole), size):
            answer.add(whole[start : start + size])
    final = screen.getvalue().rpartition("\x1b[2K")[2]
    assert [final.count(f"w{index}") for index in range(5)] == [1] * 5


@pytest.mark.parametrize(("width", "bar"), [(80, "██████"), (72, "█")])
def test_a_narrow_terminal_shows_every_figure_of_a_level(width: int, bar: str) -> None:
    screen = io.StringIO()
    level = wire.LevelStatus(
        name="projections",
        period=64,
        tokens=65_536,
        writes=1_024,
        refused=12,
        frequency=1 / 64,
        drift_ratio=0.25,
        bytes=1_064_960,
    )
    Screen(Console(file=screen, width=width)).levels([level])
    assert "…" not in screen.getvalue()
    for figure in ("projections", "64", "65,536", "1,024", "12", "0.015625", "0.2500", "1,064,960", bar):
        assert figure in screen.getvalue()
