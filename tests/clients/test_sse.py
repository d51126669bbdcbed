"""The event-stream decoder: the same events however the bytes are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_client import ProtocolError
from hope_client._sse import SSEDecoder

_LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
# Text of one data line: anything but line ends and surrogates.
_LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
_EVENTS = st.lists(st.lists(_LINES, min_size=1, max_size=3), max_size=5)
_NOISE = st.sampled_from(["", ": ping", "event: token", "id: 7", "retry: 100", "unknown"])


@st.composite
def _streams(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Expected events, and bytes that encode them with any line ends, comments and other fields."""
    events = draw(_EVENTS)
    lines: list[str] = []
    for event in events:
        if noise := draw(_NOISE):
            lines.append(noise)
        lines += [f"data:{draw(st.sampled_from(['', ' ']))}{_no_space(line)}" for line in event]
        lines.append("")
    text = ""
    for line in lines:
        end = draw(_LINE_ENDS)
        # A CR, an empty line and its LF would read as one CRLF.
        text += line + ("\r\n" if end == "\n" and not line and text.endswith("\r") else end)
    bom = draw(st.booleans())
    expected = ["\n".join(_no_space(line) for line in event) for event in events]
    return expected, (b"\xef\xbb\xbf" if bom else b"") + text.encode()


def _no_space(line: str) -> str:
    """A leading space would be taken for the separator."""
    return line.lstrip(" ")


@settings(deadline=None)
@given(_streams(), st.data())
def test_any_cut_gives_the_same_events(stream: tuple[list[str], bytes], data: st.DataObject) -> None:
    expected, content = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=12)))
    decoder = SSEDecoder()
    events: list[str] = []
    for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True):
        events += decoder.feed(content[start:stop])
    assert events == expected


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_decode_alike_or_are_refused(content: bytes, cut: int) -> None:
    assert _outcome([content]) == _outcome([content[:cut], content[cut:]])


def _outcome(pieces: list[bytes]) -> list[str] | None:
    decoder = SSEDecoder()
    try:
        return [event for piece in pieces for event in decoder.feed(piece)]
    except ProtocolError:
        return None


def test_a_crlf_cut_in_the_middle_is_one_line_end() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r") == []
    assert decoder.feed(b"\n\r\n") == ["a\nb"]


def test_only_one_space_after_the_colon_is_dropped() -> None:
    assert SSEDecoder().feed(b"data:  a \n\n") == [" a "]


def test_an_unfinished_event_is_not_given_out() -> None:
    assert SSEDecoder().feed(b"data: a\n\ndata: b\n") == ["a"]


def test_a_character_cut_in_two_arrives_whole() -> None:
    decoder = SSEDecoder()
    first, second = "data: é\n\n".encode()[:7], "data: é\n\n".encode()[7:]
    assert decoder.feed(first) + decoder.feed(second) == ["é"]


def test_invalid_utf8_is_refused() -> None:
    with pytest.raises(ProtocolError, match="UTF-8"):
        SSEDecoder().feed(b"data: \xff\n\n")


@pytest.mark.parametrize("content", [b"data: " + b"x" * 100, b"data: x\n" * 20], ids=["one line", "many"])
def test_an_endless_event_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError, match="at most 64 bytes"):
        SSEDecoder(max_event_bytes=64).feed(content)


def test_pings_do_not_count_as_an_event() -> None:
    decoder = SSEDecoder(max_event_bytes=64)
    for _ in range(100):
        assert decoder.feed(b": ping\n") == []
