from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hope_server.api.text import AnswerText, TokenDecoder


def decode_bytes(ids: object) -> bytes:
    """Tokens below 256 are bytes, 256 is special."""
    return bytes(token for token in ids if token < 256)  # type: ignore[attr-defined]


def pieces(tokens: list[int], *stops: str) -> tuple[list[str], AnswerText]:
    text = AnswerText(decode_bytes, stops)
    released = []
    for token in tokens:
        released.append(text.feed(token))
        if text.stopped:
            break
    return [*released, text.finish()], text


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the stop string that is complete first; of those, before the one that begins first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@given(st.text())
def test_a_character_appears_once_whole_with_its_last_byte(text: str) -> None:
    decoder = TokenDecoder(decode_bytes)
    found = [decoder.feed(byte) for byte in text.encode()]
    assert "".join(found) == text
    assert decoder.flush() == ""
    assert [piece for piece in found if piece] == list(text)


@given(st.binary())
def test_any_bytes_become_the_text_that_python_makes_of_them(data: bytes) -> None:
    found, text = pieces(list(data))
    assert "".join(found) == data.decode("utf-8", "replace") == text.so_far()


def test_a_special_token_ends_a_pending_character() -> None:
    decoder = TokenDecoder(decode_bytes)
    assert decoder.feed(0xE2) == ""
    assert decoder.pending() == "\ufffd"
    assert decoder.feed(256) == "\ufffd"
    assert decoder.pending() == ""


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    found, _ = pieces(list(b"a ENx END z"), "END")
    assert found[:6] == ["a", " ", "", "", "ENx", " "]
    assert "".join(found) == "a ENx "


def test_held_back_text_comes_out_at_the_end() -> None:
    found, text = pieces(list(b"go EN"), "END")
    assert found[-1] == "EN"
    assert not text.stopped


def test_the_stop_string_that_begins_first_wins_within_a_token() -> None:
    text = AnswerText(lambda _: b"one two three", ("two three", "one"))
    assert text.feed(0) + text.finish() == ""
    assert text.stopped


@given(
    st.text(alphabet="abé\n", max_size=40),
    st.lists(st.text(alphabet="abé\n", min_size=1, max_size=4), max_size=4),
)
def test_streamed_text_is_the_text_cut_at_the_first_stop_string(text: str, stops: list[str]) -> None:
    found, answer = pieces(list(text.encode()), *stops)
    assert "".join(found) == cut(text, tuple(stops)) == answer.so_far()
    assert answer.stopped == any(stop in text for stop in stops)


@given(
    st.text(alphabet="ab", max_size=40),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=2),
)
def test_nothing_released_is_taken_back(text: str, stops: list[str]) -> None:
    expected = cut(text, tuple(stops))
    answer, shown = AnswerText(decode_bytes, stops), ""
    for byte in text.encode():
        shown += answer.feed(byte)
        assert expected.startswith(shown)
