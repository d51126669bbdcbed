from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tests.server.api.templates import (
    CHATML_SPECIALS,
    LLAMA3,
    LLAMA3_SPECIALS,
    MISTRAL,
    QWEN,
    SMOLLM2,
    SpecialTokenizer,
    chatml,
    llama3,
    mistral,
)

from hope_server.chat import ChatFormat, JinjaFormat, LastToken, Message, TextTokenizer, learn
from hope_server.errors import InvalidRequest

NAMES: dict[str, dict[str, str]] = {
    SMOLLM2: {},
    QWEN: {},
    LLAMA3: {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    MISTRAL: {"bos_token": "<s>", "eos_token": "</s>"},
}
END, OPEN = CHATML_SPECIALS.index("<|im_end|>"), CHATML_SPECIALS.index("<|im_start|>")


@cache
def format_of(source: str) -> tuple[JinjaFormat, SpecialTokenizer]:
    tokenizer = {LLAMA3: llama3, MISTRAL: mistral}.get(source, chatml)()
    names = NAMES[source]
    template = learn(source, bos_token=names.get("bos_token"), eos_token=names.get("eos_token"))
    return JinjaFormat(template, tokenizer, add_bos=False), tokenizer


def rendered(source: str, messages: Sequence[Message]) -> str:
    """What the template itself writes, as transformers calls it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    chat = [{"role": message.role, "content": message.text} for message in messages]
    template = environment.from_string(source)
    return template.render(messages=chat, add_generation_prompt=True, **NAMES[source])


class Turn(NamedTuple):
    """What is new to the session, and what the model answers; `ended`: with a stop token, or it was cut."""

    new: list[Message]
    answer: str
    ended: bool


def read_by_a_session(
    chat_format: ChatFormat, tokenizer: TextTokenizer, stop: int, turns: Sequence[Turn]
) -> list[int]:
    """All that a session has read and written after `turns`."""
    read: list[int] = []
    after = None
    for turn in turns:
        parts = chat_format.render(turn.new, after=after)
        read += [token for part in parts for token in part.tokens]
        said = [*tokenizer.encode(turn.answer), *([stop] if turn.ended else [])]
        read += said
        after = LastToken(said[-1], "model") if said else LastToken(read[-1], parts[-1].origin)
    return read


def history(turns: Sequence[Turn]) -> list[Message]:
    messages = []
    for turn in turns:
        messages += [*turn.new, Message("assistant", turn.answer)]
    return messages


texts = st.text(st.sampled_from("ab é🙂\n\t<|>"), min_size=0, max_size=12)
answers = st.text(st.sampled_from("ab é🙂<|>"), min_size=0, max_size=8).map(str.strip)


def turns(*later: str) -> st.SearchStrategy[list[Turn]]:
    """Chats whose turns begin with messages of the roles `later`, as words of one letter."""
    roles = {"u": "user", "t": "tool", "s": "system", "a": "assistant"}
    word = st.sampled_from(later).flatmap(
        lambda letters: st.tuples(*(st.builds(Message, st.just(roles[letter]), texts) for letter in letters))
    )
    start = st.lists(st.builds(Message, st.just("system"), texts), max_size=1)
    turn = st.builds(Turn, word.map(list), answers, st.booleans())
    chat = st.lists(turn, min_size=1, max_size=4)
    first = st.builds(Message, st.just("user"), texts)
    return st.builds(
        lambda head, user, chat: [Turn([*head, user], chat[0].answer, chat[0].ended), *chat[1:]],
        start,
        first,
        chat,
    )


@pytest.mark.parametrize(
    ("source", "chats"),
    [
        (SMOLLM2, turns("u", "t", "tt", "uu", "su", "uau")),
        (QWEN, turns("u", "t", "tt", "ut", "su")),
        (LLAMA3, turns("u", "t", "uu", "su", "uau")),
    ],
    ids=["smollm2", "qwen", "llama3"],
)
@given(data=st.data())
def test_the_turns_of_a_session_are_the_whole_conversation(
    source: str, chats: st.SearchStrategy[list[Turn]], data: st.DataObject
) -> None:
    chat = data.draw(chats)
    chat_format, tokenizer = format_of(source)
    (stop,) = tokenizer.encode_template("<|eot_id|>" if source is LLAMA3 else "<|im_end|>")
    whole = rendered(source, [*history(chat[:-1]), *chat[-1].new])
    said = [*tokenizer.encode(chat[-1].answer), *([stop] if chat[-1].ended else [])]
    assert read_by_a_session(chat_format, tokenizer, stop, chat) == tokenizer.encode_template(whole) + said


@pytest.mark.parametrize(
    ("source", "chats"),
    [
        (SMOLLM2, turns("u", "t", "tt", "uu", "su", "uau")),
        (QWEN, turns("u", "t", "tt", "ut", "su")),
        (LLAMA3, turns("u", "t", "uu", "su", "uau")),
        (MISTRAL, turns("u", "uau")),
    ],
    ids=["smollm2", "qwen", "llama3", "mistral"],
)
@given(data=st.data())
def test_a_conversation_in_one_request_is_what_the_template_writes(
    source: str, chats: st.SearchStrategy[list[Turn]], data: st.DataObject
) -> None:
    chat = data.draw(chats)
    messages = [*history(chat[:-1]), *chat[-1].new]
    chat_format, tokenizer = format_of(source)
    read = tokenizer.spelled(chat_format.render(messages, after=None))
    assert "".join(text for _, text in read) == rendered(source, messages)


def test_parts_tell_the_template_from_the_texts() -> None:
    chat_format, tokenizer = format_of(SMOLLM2)
    chat = [Message("user", "Hi"), Message("assistant", "Ho"), Message("tool", "4"), Message("system", "")]
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert tokenizer.spelled(chat_format.render(chat, after=None)) == [
        ("template", f"<|im_start|>system\n{default}<|im_end|>\n<|im_start|>user\n"),
        ("user", "Hi"),
        ("template", "<|im_end|>\n<|im_start|>assistant\n"),
        ("model", "Ho"),
        ("template", "<|im_end|>\n<|im_start|>tool\n"),
        ("tool", "4"),
        ("template", "<|im_end|>\n<|im_start|>system\n"),
        ("template", "<|im_end|>\n<|im_start|>assistant\n"),
    ]


def test_a_system_message_takes_the_place_of_the_templates_own() -> None:
    chat_format, tokenizer = format_of(SMOLLM2)
    chat = [Message("system", "Be kind."), Message("user", "Hi")]
    assert tokenizer.spelled(chat_format.render(chat, after=None)) == [
        ("template", "<|im_start|>system\n"),
        ("system", "Be kind."),
        ("template", "<|im_end|>\n<|im_start|>user\n"),
        ("user", "Hi"),
        ("template", "<|im_end|>\n<|im_start|>assistant\n"),
    ]


@pytest.mark.parametrize(
    ("after", "first"),
    [
        (LastToken(END, "model"), "\n<|im_start|>user\n"),
        (LastToken(chatml().encode("x")[0], "model"), "<|im_end|>\n<|im_start|>user\n"),
        (LastToken(chatml().encode("\n")[0], "template"), "<|im_end|>\n<|im_start|>user\n"),
        (LastToken(END, "user"), "<|im_end|>\n<|im_start|>user\n"),
    ],
    ids=["ended by the model", "cut", "not begun", "written by a user"],
)
def test_an_answer_is_ended_as_far_as_it_is_not(after: LastToken, first: str) -> None:
    chat_format, tokenizer = format_of(SMOLLM2)
    parts = chat_format.render([Message("user", "Hi")], after=after)
    assert tokenizer.spelled(parts)[0] == ("template", first)


def test_a_stop_token_that_the_template_does_not_write_is_no_end_of_its_message() -> None:
    chat_format, tokenizer = format_of(LLAMA3)
    end_of_text = LLAMA3_SPECIALS.index("<|end_of_text|>")
    assert chat_format.stop_token_ids == {end_of_text, LLAMA3_SPECIALS.index("<|eot_id|>")}
    parts = chat_format.render([Message("user", "Hi")], after=LastToken(end_of_text, "model"))
    assert tokenizer.spelled(parts)[0][1].startswith("<|eot_id|><|start_header_id|>user")


@pytest.mark.parametrize(
    ("between", "unread"), [(" \n", ""), ("word", "word<|im_end|>"), ("<|im_start|>", None)]
)
def test_only_white_space_before_the_stop_token_counts_as_read(between: str, unread: str | None) -> None:
    source = (
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '"
        + between
        + "<|im_end|>' }}{% endfor %}"
    )
    tokenizer = chatml()
    chat_format = JinjaFormat(learn(source, bos_token=None, eos_token=None), tokenizer, add_bos=False)
    parts = chat_format.render([Message("user", "Hi")], after=LastToken(END, "model"))
    expected = f"{between}<|im_end|>" if unread is None else unread
    assert tokenizer.spelled(parts)[0] == ("template", f"{expected}<user>")


@given(st.lists(st.sampled_from([*CHATML_SPECIALS, "a", "\n", " "]), max_size=8).map("".join))
def test_special_tokens_in_a_text_are_ordinary_text(text: str) -> None:
    chat_format, tokenizer = format_of(SMOLLM2)
    chat = [Message("user", text), Message("assistant", text), Message("tool", text), Message("system", text)]
    parts = chat_format.render(chat, after=None)
    assert [token for part in parts for token in part.tokens if token < len(CHATML_SPECIALS)] == [
        *(OPEN, END) * 5,
        OPEN,
    ]
    for part in parts:
        if part.origin != "template":
            assert min(part.tokens) >= len(CHATML_SPECIALS)
            assert tokenizer.decode_bytes(part.tokens).decode() == text


def test_blanks_before_a_text_are_read_with_it() -> None:
    """Tokenizers join a blank to the word after it."""
    chat_format, tokenizer = format_of(MISTRAL)
    chat = [Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "")]
    assert tokenizer.spelled(chat_format.render(chat, after=None)) == [
        ("template", "<s>[INST]"),
        ("user", " Hi"),
        ("template", " [/INST]"),
        ("model", " Ho"),
        ("template", "</s>[INST] "),
        ("template", " [/INST]"),
    ]


@pytest.mark.parametrize(
    ("roles", "after", "said"),
    [
        (["user", "tool"], None, "no place for tool messages after user messages: roles must alternate"),
        (["assistant"], None, "no place for assistant messages at the beginning: roles must alternate"),
        (["system"], None, "no place for an answer after system messages"),
        (["system", "user"], LastToken(1, "model"), "no place for system messages after assistant messages"),
    ],
)
def test_a_conversation_that_the_template_does_not_allow(
    roles: list[str], after: LastToken | None, said: str
) -> None:
    chat_format, _ = format_of(MISTRAL)
    with pytest.raises(InvalidRequest) as refusal:
        chat_format.render([Message(role, "a") for role in roles], after=after)
    assert said in str(refusal.value)
    assert (refusal.value.param, refusal.value.code) == ("messages", "unsupported_messages")


def test_the_clock_dates_every_turn() -> None:
    loop = "{% for m in messages %}{{ ' ' + m.role + ':' + m.content }}{% endfor %}"
    template = learn("{{ strftime_now('%Y-%m-%d') }}" + loop, bos_token=None, eos_token=None)
    tokenizer = chatml()
    days = iter([datetime(2030, 1, 2), datetime(2030, 1, 3)])
    chat_format = JinjaFormat(template, tokenizer, add_bos=False, clock=lambda: next(days))
    for day in ("2030-01-02", "2030-01-03"):
        parts = chat_format.render([Message("user", "Hi")], after=None)
        assert tokenizer.spelled(parts) == [("template", f"{day} user:"), ("user", "Hi")]


@pytest.mark.parametrize(
    ("bos", "add_bos", "start"),
    [("<|im_start|>", True, (OPEN,)), ("<|im_start|>", False, ()), (None, True, ())],
)
def test_what_a_plain_text_starts_with(bos: str | None, add_bos: bool, start: tuple[int, ...]) -> None:
    tokenizer = SpecialTokenizer(CHATML_SPECIALS, eos=["<|im_end|>"], bos=bos)
    template = learn(SMOLLM2, bos_token=None, eos_token=None)
    assert JinjaFormat(template, tokenizer, add_bos=add_bos).text_start == start
