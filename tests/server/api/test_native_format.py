from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_server.chat import LastToken, Message, NativeFormat

EOS, END, SYSTEM, USER, ASSISTANT, TOOL = range(6)
roles = st.sampled_from(["system", "user", "assistant", "tool"])
conversations = st.lists(st.builds(Message, roles, st.text(max_size=10)), min_size=1, max_size=6)


class Words:
    """One token per character from 10 on."""

    vocab_size = 1 << 21
    eos_id = EOS
    end_id = END

    def role_id(self, role: str) -> int:
        return {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": TOOL}[role]

    def added_text(self, token: int) -> str | None:
        return f"<{token}>" if token < 10 else None

    def encode(self, text: str) -> list[int]:
        return [10 + ord(character) for character in text]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return "".join(chr(token - 10) for token in ids if token >= 10).encode()


@given(conversations)
def test_every_message_is_a_part_and_the_last_one_opens_the_answer(new: list[Message]) -> None:
    parts = NativeFormat(Words()).render(new, after=None)
    assert [part.origin for part in parts] == [
        {"assistant": "model"}.get(message.role, message.role) for message in new
    ]
    expected = [(Words().role_id(role), *Words().encode(text), END) for role, text in new]
    expected[-1] = (*expected[-1], ASSISTANT)
    assert [part.tokens for part in parts] == expected


@pytest.mark.parametrize(
    ("after", "ended_first"),
    [
        (None, False),
        (LastToken(10 + ord("x"), "model"), True),
        (LastToken(END, "model"), False),
        (LastToken(EOS, "model"), False),
        (LastToken(ASSISTANT, "user"), False),
    ],
)
def test_an_answer_that_was_cut_is_ended_first(after: LastToken | None, ended_first: bool) -> None:
    (part,) = NativeFormat(Words()).render([Message("user", "a")], after=after)
    assert part.tokens == (*((END,) if ended_first else ()), USER, 10 + ord("a"), END, ASSISTANT)


def test_both_ends_stop_an_answer_and_a_text_starts_with_nothing() -> None:
    native = NativeFormat(Words())
    assert native.stop_token_ids == {EOS, END}
    assert native.text_start == ()
