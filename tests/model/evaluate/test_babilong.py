"""bAbI in long text: rows, texts with facts in them, answers."""

from __future__ import annotations

from typing import Any

import pytest
from tests.model.evaluate.asked import Spoken, text_of

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.babilong import (
    Item,
    Lead,
    Story,
    answers_by_task,
    hidden_facts,
    parse_story,
    whole_texts,
)
from hope_model.evaluate.babilong_report import markdown, summary
from hope_model.evaluate.haystack import Haystack
from hope_model.evaluate.rows import RowError
from hope_model.evaluate.sessions.asking import Reply

encode = Spoken(lambda _read, _prompt: "").encode
HAYSTACK = Haystack("text", encode([f"Sentence {number} says so. " for number in range(40)]))
ROW: dict[str, Any] = {
    "task": 1,
    "name": "qa1",
    "facts": ["Mary went to the garden.", "John moved to the office."],
    "question": "Where is Mary?",
    "answer": "garden",
    "support": [0],
}
STORIES = [
    Story(task, tuple(ROW["facts"]), f"Where is {name}?", place)
    for task in (1, 2)
    for name, place in (("Mary", "garden"), ("John", "office"), ("Ann", "hall"))
]
ANSWERS = answers_by_task(STORIES, "file")


def _hidden(**changes: Any) -> list[Item]:
    fields: dict[str, Any] = {"lengths": (200, 400), "limit": 2, "seed": 0, **changes}
    return list(hidden_facts(STORIES, HAYSTACK, Lead(ANSWERS, encode), encode, **fields))


def test_rows_are_read_as_the_files_have_them() -> None:
    assert parse_story(ROW) == Story(1, tuple(ROW["facts"]), "Where is Mary?", "garden")
    whole = parse_story({**ROW, "context": "Long.", "words": 250})
    assert (whole.context, whole.words) == ("Long.", 250)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "one"}, "a whole number as 'task', found 'one'"),
        ({"facts": "Mary"}, "a list of texts as 'facts', found 'Mary'"),
        ({"facts": []}, "one fact at least as 'facts', found none"),
        ({"answer": ""}, "a text as 'answer', found ''"),
        ({"context": "Long."}, "a whole number as 'words', found None"),
        ({"context": 3, "words": 1}, "a text as 'context', found 3"),
    ],
)
def test_a_broken_row_says_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError) as raised:
        parse_story(ROW | changes)
    assert str(raised.value) == message


def test_facts_stand_in_their_order_in_a_text_of_the_length() -> None:
    items = _hidden()
    assert [(item.task, item.length) for item in items] == [
        (task, length) for task in (1, 2) for length in (200, 400) for _ in range(2)
    ]
    for item in items:
        text = text_of(item.context)
        assert len(text) == item.length
        assert 0 <= text.index(ROW["facts"][0]) < text.index(ROW["facts"][1])
        story = STORIES[item.number]
        assert text_of(item.question.prompt) == f"\n\nQuestion: {story.question}\nAnswer:"
        answers = [text_of(answer).strip() for answer in item.question.answers]
        assert answers == ["garden", "hall", "office"]
        assert answers[item.right] == story.answer == item.answer
    assert len({item.context for item in items}) == len(items)
    assert _hidden() == items
    assert _hidden(seed=1) != items


def test_whole_texts_are_taken_as_they_are() -> None:
    stories = [
        Story(1, ("f",), "q", answer, "Long text.", words) for words in (250, 500) for answer in "abab"
    ]
    items = list(whole_texts(stories, Lead(answers_by_task(stories, "f"), encode), encode, limit=3))
    assert [(item.number, item.length) for item in items] == [
        (0, 250),
        (1, 250),
        (2, 250),
        (4, 500),
        (5, 500),
        (6, 500),
    ]
    assert {text_of(item.context) for item in items} == {"Long text."}
    mixed = [*stories, Story(1, ("f",), "which?", "a")]
    with pytest.raises(
        DataError, match="expected a 'context' in every row, as in others, found none: 'which"
    ):
        list(whole_texts(mixed, Lead(answers_by_task(mixed, "f"), encode), encode, limit=None))


def test_solved_examples_of_the_same_task_come_first() -> None:
    examples = [Story(task, (f"Fact {task}.",), f"Q{task}?", "so") for task in (1, 2) for _ in range(2)]
    lead = Lead(ANSWERS, encode, examples=examples, shots=2)
    item = lead.item(3, STORIES[3], 10, encode(["Text."])[0])
    assert text_of(item.context) == "Fact 2.\n\nQuestion: Q2?\nAnswer: so\n\n" * 2 + "Text."
    with pytest.raises(DataError, match="examples: expected 3 of task 1 at least, found 2"):
        Lead(ANSWERS, encode, examples=examples, shots=3)


@pytest.mark.parametrize(
    ("text", "greedy"),
    [(" garden", True), (" the Garden.", True), ("gardens", False), ("a garden", False), ("", False)],
)
def test_a_free_answer_begins_with_the_right_one(text: str, greedy: bool) -> None:
    item = Lead(ANSWERS, encode).item(0, STORIES[0], 10, [1])
    found = item.found(Reply((-1.0, -2.0, -3.0), text))
    assert found["greedy"] is greedy
    assert found["likeliest"] is True
    assert item.found(Reply((-1.0, -0.5, -3.0), text))["likeliest"] is False


def test_a_task_of_one_answer_is_refused() -> None:
    with pytest.raises(DataError, match=r"file: expected two answers at least of task 1, found \['a'\]"):
        answers_by_task([Story(1, ("f",), "q", "a")] * 2, "file")


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ((), ConfigError, "lengths: expected positive numbers"),
        ((0,), ConfigError, "lengths: expected positive numbers"),
        ((30,), DataError, "found no room"),
        ((5000,), DataError, f"text: expected .* found {HAYSTACK.tokens}"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(
    lengths: tuple[int, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _hidden(lengths=lengths)


def test_shares_by_task_and_of_all() -> None:
    records = [
        {
            **{"model": "m", "rule": "r", "condition": "on", "task": task, "length": 250, "number": number},
            **{"likeliest": right, "greedy": False, "answers": answers},
        }
        for number, (task, right, answers) in enumerate([(1, True, 2), (1, False, 2), (2, True, 4)])
    ]
    cells = {cell["task"]: cell for cell in summary(records)}
    assert cells[1]["likeliest"] == 0.5
    assert cells[1]["likeliest_stderr"] == pytest.approx(0.5)
    assert cells[None]["likeliest"] == pytest.approx(2 / 3)
    assert cells[None]["chance"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert cells[None]["questions"] == 3
    (row,) = [line for line in markdown({}, records).splitlines() if "| all |" in line]
    assert row == "| m | r | on | all | 250 | 3 | 0.667 ± 0.333 | 0.000 ± 0.000 | 0.417 |"
