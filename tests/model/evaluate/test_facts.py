"""Invented people, the words they use, and what else is said to a session."""

from __future__ import annotations

import re

import pytest

from hope_model.attention.prompts import QUESTIONS
from hope_model.errors import ConfigError
from hope_model.evaluate.fact_kinds import KINDS, Kind
from hope_model.evaluate.facts import Person, contains, invent_people
from hope_model.evaluate.filler import FILLER
from hope_model.evaluate.unrelated import PROMPTS

TALK = (("Hello.", "Hi."), ("Nice weather.", "It is."), ("Indeed.", "Yes."))


def _people(count: int = 30, facts: int = 5, seed: int = 4) -> list[Person]:
    return invent_people(count, facts, seed, TALK)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_a_person_depends_on_seed_and_number_alone() -> None:
    assert _people(30)[:7] == _people(7)
    assert all(one != other for one, other in zip(_people(), _people(seed=5), strict=True))
    assert len({person.told for person in _people()}) == 30


def test_people_tell_the_right_answers_and_none_of_the_wrong_ones() -> None:
    by_name = {kind.name: kind for kind in KINDS}
    for person in _people(facts=len(KINDS)):
        assert len({question.kind for question in person.questions}) == len(KINDS)
        for question in person.questions:
            kind = by_name[question.kind]
            values = [value for value in kind.values if kind.answer.format(value) in question.answers]
            told = [value for value in values if kind.statement.format(value) in person.told]
            assert len(values) == len(set(question.answers)) == 8
            assert question.answers[0] == kind.answer.format(told[0])
            assert question.words == (told[0],)
            assert len(told) == 1


def test_the_right_value_is_any_of_its_kind() -> None:
    """Else a model could do without being told."""
    people = invent_people(400, 1, 0, TALK)
    found = {question.words[0] for person in people for question in person.questions}
    assert len(found) > 0.7 * sum(len(kind.values) for kind in KINDS)


def test_filler_comes_whole_in_an_order_of_ones_own() -> None:
    people = _people()
    assert all(sorted(person.filler) == sorted(TALK) for person in people)
    assert len({tuple(person.filler) for person in people}) > 1


@pytest.mark.parametrize(
    ("count", "facts", "message"),
    [
        (0, 5, "people: expected at least 1"),
        (2, 0, "facts"),
        (2, len(KINDS) + 1, "1 to 18, found 19"),
    ],
)
def test_other_numbers_are_refused(count: int, facts: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _people(count, facts)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_has_values_and_places_for_them(kind: Kind) -> None:
    assert len(set(kind.values)) == len(kind.values) >= 12
    assert kind.statement.count("{}") == kind.answer.count("{}") == 1
    assert not any(value.lower() in _words(kind.question) for value in kind.values)


def test_no_value_belongs_to_two_kinds() -> None:
    values = [value.lower() for kind in KINDS for value in kind.values]
    assert len(values) == len(set(values))
    assert len(KINDS) >= 12


def test_filler_holds_no_fact() -> None:
    said = _words(" ".join(f"{user} {assistant}" for user, assistant in FILLER))
    assert not said & {value.lower() for kind in KINDS for value in kind.values}
    assert len(set(FILLER)) == len(FILLER) >= 36


def test_unrelated_prompts_are_nobody_elses() -> None:
    others = {*QUESTIONS, *(user for user, _ in FILLER), *(kind.question for kind in KINDS)}
    assert len(set(PROMPTS)) == len(PROMPTS) == 100
    assert not others & set(PROMPTS)


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("It is called CLOVER.", ("Clover",), True),
        ("It is 7319, I think", ("7319",), True),
        ("Cloverfield", ("Clover",), False),
        ("a dog school", ("school", "dog"), True),
        ("a dog", ("school", "dog"), False),
        ("", ("dog",), False),
    ],
)
def test_an_answer_contains_whole_words(text: str, words: tuple[str, ...], found: bool) -> None:
    assert contains(text, words) is found
