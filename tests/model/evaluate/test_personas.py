"""A file of personas: its rows, who is chosen, and which sentences stand against one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.personas import PersonaRow, chats_of, choose_people, read_personas

ROW = {"p1": "I like tea.\nI am tall.", "p2": "I sing.", "chat": "User 1: Hi\nUser 2: Hello"}


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def _rows(count: int) -> list[PersonaRow]:
    """Persona ``n`` is that of row ``n`` and, as second user, of the row before it."""
    return [
        PersonaRow(
            first=(f"I am number {number}.", f"My favorite number is {number}."),
            second=(f"I am number {number + 1}.", f"My favorite number is {number + 1}."),
            chat=((f"{number} asks", f"{number + 1} answers"),),
        )
        for number in range(count)
    ]


def test_a_row_is_two_personas_and_their_chat(tmp_path: Path) -> None:
    (row,) = read_personas(_write(tmp_path / "rows.jsonl", [ROW]))
    assert row == PersonaRow(("I like tea.", "I am tall."), ("I sing.",), (("Hi", "Hello"),))


@pytest.mark.parametrize(
    ("chat", "exchanges"),
    [
        ("User 1: a\nUser 2: b\nUser 1: c\nUser 2: d", (("a", "b"), ("c", "d"))),
        ("User 2: a\nUser 1: b\nUser 2: c", (("b", "c"),)),
        ("User 1: a\nmore\n\nUser 1: and more\nUser 2: b\nUser 1: left", (("a more and more", "b"),)),
        ("[At noon]\nUser 1: a\nUser 2: b", (("a", "b"),)),
    ],
)
def test_a_chat_goes_by_turns(tmp_path: Path, chat: str, exchanges: tuple[tuple[str, str], ...]) -> None:
    (row,) = read_personas(_write(tmp_path / "rows.jsonl", [{**ROW, "chat": chat}]))
    assert row.chat == exchanges


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{", r"rows\.jsonl: row 2: expected JSON, found"),
        ("[1]", "row 2: expected an object with the texts p1, p2, chat, found list"),
        ('{"p1": "a", "p2": "b"}', r"row 2: expected an object with .*, found \['p1', 'p2'\]"),
        (json.dumps({**ROW, "p2": 5}), "row 2: expected an object with the texts"),
        (json.dumps({**ROW, "p1": " \n "}), "row 2: expected at least one sentence in p1"),
        (json.dumps({**ROW, "chat": "User 1: Hello?"}), 'row 2: expected a chat with lines "User 1'),
        ("\udc80", "row 2: expected JSON"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, second: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f"{json.dumps(ROW)}\n{second}\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_personas(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"none\.jsonl: cannot be read"),
        ("empty.jsonl", "", r"empty\.jsonl: expected rows with p1, p2, chat, found none"),
        ("rows.txt", json.dumps(ROW), r"rows\.txt: expected a name that ends in \.jsonl"),
        ("rows.pdf", json.dumps(ROW), r"rows\.pdf: expected a name that ends in"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_personas(tmp_path / name)


def test_people_tell_their_own_sentences() -> None:
    rows = _rows(60)
    people = choose_people(rows, 5, 2, seed=1)
    told = {" ".join(row.first): row for row in rows}
    assert len({person.told for person in people}) == 5
    for person in people:
        sentences = told[person.told].first
        assert [question.answers[0] for question in person.questions] == list(sentences)
        assert all(question.above_fresh for question in person.questions)


def test_fewer_facts_are_told_when_fewer_are_asked_for() -> None:
    (person,) = choose_people(_rows(60), 1, 1, seed=1)
    assert [question.answers[0] for question in person.questions] == [person.told]


def test_nothing_wrong_was_said_in_the_session() -> None:
    """Neither by the persona nor by anyone whose chat is its filler; nobody in it shares the persona."""
    rows = _rows(60)
    by_chat = {exchange: row for row in rows for exchange in row.chat}
    for person in choose_people(rows, 20, 2, seed=2):
        own = {question.answers[0] for question in person.questions}
        heard = {sentence for exchange in person.filler for sentence in by_chat[exchange].sentences}
        assert len(person.filler) == 16
        assert not heard & own
        for question in person.questions:
            assert len(set(question.answers)) == 8
            assert not set(question.answers[1:]) & (own | heard)


def test_other_filler_leaves_all_strangers_sentences() -> None:
    (person,) = choose_people(_rows(9), 1, 2, seed=2, filler=[("a", "b")])
    assert person.filler == [("a", "b")]


def test_who_is_chosen_depends_on_the_seed() -> None:
    rows = _rows(60)
    assert choose_people(rows, 5, 2, seed=1) == choose_people(rows, 9, 2, seed=1)[:5]
    assert choose_people(rows, 5, 2, seed=1) != choose_people(rows, 5, 2, seed=2)


def test_people_with_one_persona_are_one() -> None:
    with pytest.raises(DataError, match="expected at least 2 different people, found 1"):
        choose_people(_rows(1) * 3, 2, 2, seed=1)


def test_too_few_other_sentences_are_refused() -> None:
    with pytest.raises(DataError, match="expected at least 7 sentences of other people"):
        choose_people(_rows(10), 2, 2, seed=1)


@pytest.mark.parametrize(("count", "facts"), [(0, 2), (2, 0)])
def test_nobody_and_nothing_are_refused(count: int, facts: int) -> None:
    with pytest.raises(ConfigError, match="expected at least 1"):
        choose_people(_rows(60), count, facts, seed=1)


def test_chats_come_whole_in_the_seeds_order() -> None:
    rows = _rows(30)
    exchanges = [exchange for row in rows for exchange in row.chat]
    assert sorted(chats_of(rows, 1)) == sorted(exchanges)
    assert chats_of(rows, 1) != chats_of(rows, 2)
