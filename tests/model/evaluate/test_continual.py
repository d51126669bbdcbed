"""Class-incremental streams: tasks by seed, who is told and asked what, and the matrix that comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.evaluate.asked import Spoken, remembers

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.continual.data import ContinualSettings, Example, name_of, stream_tasks
from hope_model.evaluate.continual.metrics import Figures, figures_of
from hope_model.evaluate.continual.stream import FIGURES, ContinualStream

SIZES = ContinualSettings(tasks=3, examples=4, questions=2, context_tokens=400)


def _examples(classes: int, rows: int = 8) -> list[Example]:
    return [
        Example(f"about class {label} {row}", f"class_{label}")
        for label in range(classes)
        for row in range(rows)
    ]


def _figures(subject: Spoken, condition: str, figure: str, sizes: ContinualSettings = SIZES) -> Figures:
    stream = ContinualStream(subject, stream_tasks(_examples(6), None, sizes, seed=1))
    rows = stream.rows(condition, context_tokens=sizes.context_tokens)
    return figures_of([row.right[figure] for row in rows])


@given(
    classes=st.integers(2, 9),
    tasks=st.integers(1, 5),
    examples=st.integers(1, 4),
    questions=st.integers(1, 4),
    seed=st.integers(),
)
def test_tasks_divide_the_classes_and_never_ask_what_was_told(
    classes: int, tasks: int, examples: int, questions: int, seed: int
) -> None:
    sizes = ContinualSettings(min(tasks, classes), None, examples, questions)
    found = stream_tasks(_examples(classes), None, sizes, seed)
    assert found == stream_tasks(_examples(classes), None, sizes, seed)
    labels = [label for task in found for label in task.classes]
    assert sorted(labels) == sorted({example.label for example in _examples(classes)})
    counts = [len(task.classes) for task in found]
    assert len(found) == sizes.tasks
    assert max(counts) - min(counts) <= 1
    for task in found:
        assert not set(task.told) & set(task.asked)
        for label in task.classes:
            assert sum(example.label == label for example in task.told) == examples
            assert sum(example.label == label for example in task.asked) == questions


def test_other_seeds_have_other_orders() -> None:
    orders = {stream_tasks(_examples(6), None, SIZES, seed)[0].classes for seed in range(8)}
    assert len(orders) > 1


def test_questions_come_from_the_test_file() -> None:
    asked = [Example(f"other {row}", f"class_{row % 6}") for row in range(24)]
    for task in stream_tasks(_examples(6), asked, SIZES, 0):
        assert set(task.asked) <= set(asked)
        assert len(task.told) == 2 * SIZES.examples


def test_rows_that_stand_twice_are_one() -> None:
    """A question that was told would be no question."""
    twice = [Example("about class 0 0", f"class_{label}") for label in range(3) for _ in range(9)]
    with pytest.raises(DataError, match=r"class 'class_\d': expected 6 rows at least, found 1"):
        stream_tasks(twice, None, SIZES, 0)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_session_that_keeps_one_task_forgets_all_others(figure: str) -> None:
    """Two classes a task: the matrix is the identity, which no other order of reading and asking gives."""
    figures = _figures(Spoken(remembers(2)), "on", figure)
    assert figures.matrix == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert figures.accuracy.value == pytest.approx(1 / 3)
    assert figures.forgetting is not None
    assert figures.forgetting.value == 1.0


@pytest.mark.parametrize("figure", FIGURES)
def test_a_session_that_keeps_everything_forgets_nothing(figure: str) -> None:
    figures = _figures(Spoken(remembers(9)), "on", figure)
    assert figures.matrix == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert figures.forgetting is not None
    assert (figures.accuracy.value, figures.forgetting.value) == (1.0, 0.0)


@pytest.mark.parametrize("condition", ["on", "off"])
def test_one_session_is_told_all_and_learns_nothing_from_questions(condition: str) -> None:
    subject = Spoken(remembers(9))
    _figures(subject, condition, "greedy")
    (session,) = subject.sessions
    assert session.learn is (condition == "on")
    told = session.read_so_far.removeprefix("^").splitlines()
    assert len(told) == 2 * 6 * SIZES.examples
    queries = {line.removeprefix("Query: ") for line in told[::2]}
    assert all(line.startswith("Intent: class ") for line in told[1::2])
    asked = [prompt.removeprefix("Query: ").removesuffix("\nIntent:") for prompt in session.asked]
    assert len(set(asked)) == 6 * SIZES.questions + 1
    assert not set(asked) & queries


def test_in_context_a_new_session_reads_examples_of_the_classes_so_far() -> None:
    subject = Spoken(remembers(9))
    figures = _figures(subject, "context", "likeliest")
    assert figures.matrix == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert [session.learn for session in subject.sessions] == [None] * 3
    for session, room, classes in zip(subject.sessions, subject.room, (2, 4, 6), strict=True):
        prompt = session.read_so_far.removeprefix("^")
        assert len(prompt) <= SIZES.context_tokens
        counts = [prompt.count(f"Intent: class {label}\n") for label in range(6)]
        assert sum(count > 0 for count in counts) == classes
        assert max(counts) - min(count for count in counts if count) <= 1
        assert room >= len(session.read_so_far) + max(map(len, session.asked))


def test_what_is_known_is_not_asked_again() -> None:
    subject = Spoken(remembers(2))
    stream = ContinualStream(subject, stream_tasks(_examples(6), None, SIZES, seed=1))
    whole = list(stream.rows("on", context_tokens=400))
    rest = list(stream.rows("on", context_tokens=400, done=[0, 1]))
    assert rest == whole[2:]
    assert len(subject.sessions[1].asked) == len(subject.sessions[0].asked) / 3
    assert subject.sessions[1].read_so_far == subject.sessions[0].read_so_far


def test_only_what_is_wanted_is_measured() -> None:
    subject = Spoken(remembers(9))
    stream = ContinualStream(subject, stream_tasks(_examples(6), None, SIZES, 1), figures=["greedy"])
    rows = list(stream.rows("on", context_tokens=400))
    assert all(row.right.keys() == {"greedy"} for row in rows)
    assert len(subject.sessions[0].asked) == 3 * 6 * SIZES.questions


def test_one_name_that_begins_another_is_another_answer() -> None:
    """Judged with the end of their line, "card" is not in front of "card arrival"."""
    examples = [
        Example(f"about {name.replace('_', ' ')} {n}", name)
        for name in ("card", "card_arrival")
        for n in range(3)
    ]
    sizes = ContinualSettings(tasks=1, examples=2, questions=1)
    stream = ContinualStream(Spoken(remembers(2)), stream_tasks(examples, None, sizes, 0))
    (row,) = stream.rows("on", context_tokens=100)
    assert row.right["likeliest"] == [[True, True]]
    answers = stream._questions[0][0].answers
    assert all(chr(answer[-1]) == "\n" for answer in answers)


def test_names_are_written_as_people_write() -> None:
    assert name_of("card_payment__fee charged ") == "card payment fee charged"


@pytest.mark.parametrize(
    ("sizes", "examples", "message"),
    [
        (ContinualSettings(tasks=7), _examples(6), "classes: expected 7 at least for 7 tasks, found 6"),
        (ContinualSettings(tasks=2, classes=9), _examples(6), "expected 9 at least for 2 tasks, found 6"),
        (ContinualSettings(tasks=1), _examples(1), "classes: expected 2 at least"),
        (
            ContinualSettings(tasks=2, examples=7, questions=2),
            _examples(6),
            "expected 9 rows at least, found 8",
        ),
        (
            ContinualSettings(tasks=1, examples=1, questions=1),
            [Example(f"{n}", name) for n in range(3) for name in ("a_b", "a b")],
            "expected different names",
        ),
    ],
)
def test_data_that_is_too_little_is_named(
    sizes: ContinualSettings, examples: list[Example], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        stream_tasks(examples, None, sizes, 0)


def test_a_class_that_is_not_asked_for_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'class_\d': expected 2 rows to ask at least, found 0"):
        stream_tasks(_examples(6), [Example("x", "other")], SIZES, 0)


@pytest.mark.parametrize("name", ["tasks", "examples", "questions", "context_tokens"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected at least 1, found 0"):
        ContinualSettings(**{name: 0})


def test_classes_suffice_for_tasks() -> None:
    with pytest.raises(
        ConfigError, match="classes: expected 2 and one for each of 5 tasks at least, found 4"
    ):
        ContinualSettings(tasks=5, classes=4)


def test_a_prompt_without_room_is_refused() -> None:
    stream = ContinualStream(Spoken(remembers(9)), stream_tasks(_examples(6), None, SIZES, 0))
    with pytest.raises(DataError, match="context_tokens: expected room for one example at least, found 3"):
        list(stream.rows("context", context_tokens=3))
