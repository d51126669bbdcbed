"""Calls of tools as models write them: read in any pieces, written again, and forced by a grammar."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.api.conftest import ByteTokenizer
from tests.server.test_constrained import ENDS, drawn

from hope_server.chat.tools import Tool, ToolCall, ToolFormat, ToolText, take_apart, tool_format_of
from hope_server.constrained import Grammars

LISTED, TAGGED = ToolFormat(listed=True), ToolFormat(listed=False)
FORMATS = pytest.mark.parametrize("form", [LISTED, TAGGED], ids=["listed", "tagged"])
WEATHER = Tool(
    "weather",
    "The weather of a town.",
    {
        "type": "object",
        "properties": {
            "town": {"enum": ["Oslo", "Rome"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["town"],
        "additionalProperties": False,
    },
)
CLOCK = Tool("clock", None, {"type": "object", "additionalProperties": False})
NAMES = st.from_regex(r"[A-Za-z_]{1,8}", fullmatch=True)
PROSE = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20)
ARGUMENTS = st.dictionaries(NAMES, st.integers() | PROSE, max_size=3).map(json.dumps)
CALLS = st.lists(st.builds(ToolCall, NAMES, ARGUMENTS), max_size=3)


@given(PROSE, CALLS, st.sampled_from([LISTED, TAGGED]), st.integers(0, 2**32))
def test_an_answer_cut_anywhere_is_read_as_it_was_written(
    content: str, calls: list[ToolCall], form: ToolFormat, seed: int
) -> None:
    chance, text = random.Random(seed), form.written(content, calls)
    parts, shown = ToolText(), ""
    found: list[ToolCall] = []
    while text:
        size = chance.randint(1, 6)
        piece, text = text[:size], text[size:]
        more, new = parts.feed(piece)
        shown, found = shown + more, found + new
    more, new = parts.finish("")
    assert (shown + more).strip("\n") == content.strip("\n")
    assert found + new == calls


@pytest.mark.parametrize(
    ("text", "shown", "names"),
    [
        ("a<tool_call>[]</tool_call>b", "ab", []),
        ('<tool_call>[{"name": "f"}]</tool_call>', "", ["f"]),
        ('<tool_call>{"name": "f", "arguments": {}}', "", ["f"]),
        ('<tool_call>[{"name": "f", "arg', '<tool_call>[{"name": "f", "arg', []),
        ("<tool_call>nonsense</tool_call>", "<tool_call>nonsense</tool_call>", []),
        ('<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        ('<tool_call>{"name": "f", "arguments": 5}', '<tool_call>{"name": "f", "arguments": 5}', []),
        ("1 < 2 <tool", "1 < 2 <tool", []),
        ("<tool_call>" + "[" * 100_000, "<tool_call>" + "[" * 100_000, []),
    ],
    ids=range(9),
)
def test_what_is_no_call_stays_text(text: str, shown: str, names: list[str]) -> None:
    found, calls = take_apart(text)
    assert found == shown
    assert [call.name for call in calls] == names


def test_text_is_shown_as_soon_as_it_can_be_no_tag() -> None:
    parts = ToolText()
    assert parts.feed("Hello <")[0] == "Hello "
    assert parts.feed("tool")[0] == ""
    assert parts.feed("box>")[0] == "<toolbox>"


@FORMATS
def test_the_instructions_name_every_tool(form: ToolFormat) -> None:
    told = form.instructions([WEATHER, Tool("clock", None, None)])
    assert json.dumps(WEATHER.as_json) in told
    assert '{"name": "clock"}' in told


@FORMATS
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_a_forced_answer_is_calls_that_fit(form: ToolFormat, parallel: bool, seed: int) -> None:
    grammars = Grammars(ByteTokenizer(), ENDS)
    grammar = await grammars.lark(form.grammar([WEATHER, CLOCK], parallel=parallel), param="tools")
    text, calls = take_apart(drawn(grammar.constraint(), seed, most=5000))
    assert text.strip("\n") == ""
    assert len(calls) >= 1
    assert parallel or len(calls) == 1
    for call in calls:
        arguments: Any = json.loads(call.arguments)
        assert call.name in ("weather", "clock")
        if call.name == "weather":
            assert arguments["town"] in ("Oslo", "Rome")
            assert 1 <= arguments.get("days", 1) <= 9


def test_the_template_decides_whether_there_are_tools() -> None:
    assert tool_format_of("{{ '<tool_call>' }}") == TAGGED
    assert tool_format_of("You are a helpful AI assistant named SmolLM") == LISTED
    assert tool_format_of("{% for message in messages %}") is None
