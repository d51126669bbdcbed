"""Needles: how they are made, how files of them are read, what is counted."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.model.evaluate.asked import Spoken, text_of

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.haystack import Haystack
from hope_model.evaluate.needle import (
    KINDS,
    WRONG,
    Needle,
    NeedleSettings,
    NeedleText,
    hidden_needles,
    needles_of,
    parse_needle,
)
from hope_model.evaluate.needle_report import markdown, summary
from hope_model.evaluate.rows import RowError
from hope_model.evaluate.sessions.asking import Reply
from hope_model.evaluate.sessions.reading import read_and_ask

encode = Spoken(lambda _read, _prompt: "").encode
HAYSTACK = Haystack("text", encode([f"Sentence {number} says so. " for number in range(90)]))
SHAPES = {"number": r"[1-9]\d{6}", "word": r"[a-z]+", "uuid": r"[0-9a-f-]{36}"}
TEXT = NeedleText(250, 50, "The secret number for Riga is 12.", "What is the secret number for Riga?", "12")


def _needles(**changes: Any) -> list[Needle]:
    settings = NeedleSettings(lengths=(400, 800), depths=(0, 50, 100), repeats=2, **changes)
    return list(hidden_needles(settings, HAYSTACK, encode))


@pytest.mark.parametrize("kind", KINDS)
def test_every_needle_stands_in_its_text_once_and_at_its_depth(kind: str) -> None:
    needles = _needles(kind=kind)
    assert [(each.length, each.depth, each.repeat) for each in needles] == [
        (length, depth, repeat) for length in (400, 800) for depth in (0, 50, 100) for repeat in (0, 1)
    ]
    for needle in needles:
        text = text_of(needle.context)
        assert len(text) == needle.length
        assert re.fullmatch(SHAPES[kind], needle.answer)
        (sentence,) = re.findall(rf"The secret {kind} for \w+ is {needle.answer}\. ", text)
        before = text.index(sentence) / (len(text) - len(sentence))
        assert before == pytest.approx(needle.depth / 100, abs=25 / needle.length)
        answers = [text_of(answer) for answer in needle.question.answers]
        assert answers[0] == f" {needle.answer}"
        assert len(set(answers)) == 1 + WRONG
        assert all(answer.strip() not in text for answer in answers[1:])
        town = re.findall(r"for (\w+) is", sentence)[0]
        assert text_of(needle.question.prompt) == (
            f"\n\nQuestion: What is the secret {kind} for {town}?\nAnswer: The secret {kind} for {town} is"
        )


def test_seeds_draw_other_needles() -> None:
    assert _needles() == _needles()
    assert {each.answer for each in _needles()}.isdisjoint(each.answer for each in _needles(seed=1))


def test_who_looks_it_up_finds_every_needle() -> None:
    def look(read: str, prompt: str) -> str:
        question = re.findall(r"Answer: (.+ is)$", prompt)[0]
        return str(re.findall(rf"{question} (.+?)\. ", read)[0])

    for condition in ("on", "off", "context"):
        subject = Spoken(look)
        for needle in _needles():
            reply = read_and_ask(subject, condition, needle.context, needle.question)
            assert needle.found(reply) == {
                "likeliest": True,
                "greedy": True,
                "nats": [0.0] + [-1.0] * WRONG,
                "text": f" {needle.answer}",
            }
        learns = {"on": True, "off": False, "context": None}[condition]
        assert all(session.learn is learns for session in subject.sessions)
        assert all(session.read_so_far.startswith("^") for session in subject.sessions)


@pytest.mark.parametrize(
    ("nats", "text", "likeliest", "greedy"),
    [
        ((-1.0, -2.0), " it is AB1.", True, True),
        ((-3.0, -2.0), "ab", False, False),
    ],
)
def test_what_counts_as_found(nats: tuple[float, ...], text: str, likeliest: bool, greedy: bool) -> None:
    (needle, *_) = _needles()
    needle = Needle(1, 0, 0, needle.context, needle.question, "ab1")
    found = needle.found(Reply(nats, text))
    assert (found["likeliest"], found["greedy"]) == (likeliest, greedy)


def test_a_file_has_the_answers_of_others_as_wrong_ones() -> None:
    texts = [
        NeedleText(length, 0, f"It is {number}.", "What is the number?", str(number))
        for number, length in enumerate([250] * 5 + [500] * 5)
    ]
    needles = list(needles_of(texts, encode, limit=3, seed=0))
    assert [(each.length, each.repeat) for each in needles] == [
        *((250, 0), (250, 1), (250, 2)),
        *((500, 0), (500, 1), (500, 2)),
    ]
    for needle in needles:
        answers = [text_of(answer).strip() for answer in needle.question.answers]
        assert answers[0] == needle.answer
        assert len(set(answers) & {text.answer for text in texts}) == 1 + WRONG
    assert len(list(needles_of(texts, encode, limit=None, seed=0))) == 10
    with pytest.raises(DataError, match="answers: expected 8 different ones at least, found 5"):
        list(needles_of(texts[:5], encode, limit=None, seed=0))


def test_rows_are_read_as_the_file_has_them() -> None:
    row = {"words": 250, "depth": 50, "context": TEXT.context, "question": TEXT.question, "answer": "12"}
    assert parse_needle(row) == TEXT
    assert parse_needle({**row, "length": 3}).length == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": None}, "a whole number as 'words', found None"),
        ({"depth": 101}, "percent from 0 to 100 as 'depth', found 101"),
        ({"answer": 12}, "a text as 'answer', found 12"),
        ({"answer": "13"}, "the 'answer' '13' in 'context', found none"),
        ({"question": " "}, "a text as 'question', found ' '"),
    ],
)
def test_a_broken_row_says_what_was_expected(changes: dict[str, Any], message: str) -> None:
    row = {"words": 1, "depth": 50, "context": TEXT.context, "question": TEXT.question, "answer": "12"}
    with pytest.raises(RowError) as raised:
        parse_needle(row | changes)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "name"}, "kind: expected one of number, word, uuid, found 'name'"),
        ({"lengths": (0,)}, "lengths: expected positive numbers"),
        ({"lengths": ()}, "lengths: expected positive numbers"),
        ({"lengths": (64, 10**9)}, "lengths: expected positive numbers of tokens, at most 16777216, found"),
        ({"depths": (101,)}, "depths: expected percent from 0 to 100"),
        ({"repeats": 0}, "repeats: expected at least 1, found 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NeedleSettings(**changes)


def test_a_length_that_the_text_does_not_have_is_refused() -> None:
    settings = NeedleSettings(lengths=(HAYSTACK.tokens * 2,))
    with pytest.raises(DataError, match=f"text: expected .* found {HAYSTACK.tokens}"):
        list(hidden_needles(settings, HAYSTACK, encode))


def test_shares_are_over_the_needles_of_a_place() -> None:
    places = [(1024, 0, True), (1024, 0, False), (1024, 50, True), (2048, 0, False)]
    records = [
        {
            **{"model": "m", "rule": "r", "condition": "on", "length": length, "depth": depth},
            **{"repeat": repeat, "likeliest": right, "greedy": False},
        }
        for repeat, (length, depth, right) in enumerate(places)
    ]
    cells = {(cell["length"], cell["depth"]): cell for cell in summary(records)}
    assert cells[1024, 0]["likeliest"] == 0.5
    assert cells[1024, 0]["likeliest_stderr"] == pytest.approx(0.5)
    assert cells[2048, 0]["likeliest_stderr"] is None
    assert cells[1024, 0]["needles"] == 2
    table = [line for line in markdown({"seed": 0}, records).splitlines() if line.startswith("| m ")]
    assert table == [
        "| m | r | on | 1024 | 3 | 0.667 ± 0.333 | 0.000 ± 0.000 |",
        "| m | r | on | 2048 | 1 | 0.000 | 0.000 |",
    ]
