from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_server.api.conversation import AnswerTranscript, advance, new_messages
from hope_server.api.text import AnswerText
from hope_server.chat import Message
from hope_server.errors import ConversationDiverged, EmptyPrompt
from hope_server.sessions.session import NO_TRANSCRIPT

roles = st.sampled_from(["system", "user", "assistant", "tool"])
messages = st.builds(Message, roles, st.text(min_size=1).filter(str.strip))
conversations = st.lists(messages, min_size=1, max_size=6)


class Words:
    """One token per character above 10."""

    def encode(self, text: str) -> list[int]:
        return [10 + ord(character) for character in text]

    def decode_bytes(self, ids: object) -> bytes:
        return "".join(chr(token - 10) for token in ids if token >= 10).encode()  # type: ignore[attr-defined]


@given(conversations, conversations)
def test_a_whole_conversation_and_its_new_part_mean_the_same(old: list[Message], new: list[Message]) -> None:
    known = advance(NO_TRANSCRIPT, old)
    assert new_messages(known, [*old, *new]) == new
    assert advance(known, new) == advance(NO_TRANSCRIPT, [*old, *new])


@given(conversations)
def test_white_space_around_a_message_does_not_count(old: list[Message]) -> None:
    padded = [Message(message.role, f"\n {message.text} ") for message in old]
    assert advance(NO_TRANSCRIPT, padded) == advance(NO_TRANSCRIPT, old)


@given(conversations, st.data())
def test_a_changed_message_changes_the_transcript(old: list[Message], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(old) - 1))
    other = data.draw(
        messages.filter(lambda new: advance(NO_TRANSCRIPT, [new]) != advance(NO_TRANSCRIPT, [old[index]]))
    )
    changed = [*old[:index], other, *old[index + 1 :]]
    assert advance(NO_TRANSCRIPT, changed).sha256 != advance(NO_TRANSCRIPT, old).sha256


def test_role_and_text_cannot_be_shifted_into_each_other() -> None:
    one = advance(NO_TRANSCRIPT, [Message("user", "a"), Message("user", "b")])
    other = advance(NO_TRANSCRIPT, [Message("user", "a\0user\0b")])
    assert one.sha256 != other.sha256


@given(conversations)
def test_a_session_that_read_nothing_reads_everything(new: list[Message]) -> None:
    assert new_messages(NO_TRANSCRIPT, new) == new


def test_only_the_new_message_is_new() -> None:
    known = advance(NO_TRANSCRIPT, [Message("user", "hi"), Message("assistant", "hello")])
    new = [Message("user", "how are you?")]
    assert new_messages(known, new) == new


def test_a_first_message_said_again_alone_is_new() -> None:
    known = advance(NO_TRANSCRIPT, [Message("user", "hi"), Message("assistant", "hello")])
    assert new_messages(known, [Message("user", "hi")]) == [Message("user", "hi")]


def test_nothing_new_is_refused() -> None:
    old = [Message("user", "hi"), Message("assistant", "hello")]
    with pytest.raises(EmptyPrompt, match="already read these 2 messages"):
        new_messages(advance(NO_TRANSCRIPT, old), old)


def test_only_white_space_is_refused() -> None:
    with pytest.raises(EmptyPrompt, match="only empty"):
        new_messages(NO_TRANSCRIPT, [Message("user", " \n")])


def test_another_past_is_refused() -> None:
    known = advance(NO_TRANSCRIPT, [Message("user", "hi"), Message("assistant", "hello")])
    edited = [Message("user", "hi"), Message("assistant", "bye"), Message("user", "why?")]
    with pytest.raises(ConversationDiverged, match="send only the new messages"):
        new_messages(known, edited)


@given(st.text(max_size=20), st.lists(st.integers(0, 20), min_size=1))
def test_the_transcript_follows_the_answer(answer: str, prefixes: list[int]) -> None:
    before = advance(NO_TRANSCRIPT, [Message("user", "hi")])
    tokens = Words().encode(answer)
    follower = AnswerTranscript(before, AnswerText(Words().decode_bytes), tokens.__getitem__, str)
    for count in sorted(min(prefix, len(tokens)) for prefix in prefixes):
        assert follower.after(count) == advance(before, [Message("assistant", answer[:count])])


def test_the_transcript_has_the_answer_as_it_was_shown() -> None:
    before = advance(NO_TRANSCRIPT, [Message("user", "hi")])
    tokens = Words().encode("yes STOP no")
    text = AnswerText(Words().decode_bytes, ["STOP"])
    after = AnswerTranscript(before, text, tokens.__getitem__, str).after(len(tokens))
    assert after == advance(before, [Message("assistant", "yes ")])
