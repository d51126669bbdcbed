"""The recall measurement: what each reader reads and is asked, and how the answers count."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.model.evaluate import talking

from hope_model.errors import ConfigError
from hope_model.evaluate import recall
from hope_model.evaluate.conversation import Part, flat
from hope_model.evaluate.facts import Person, Question
from hope_model.evaluate.reader import ContextReader, SessionReader
from hope_model.evaluate.recall import CONDITIONS, Judged, Recall, RecallResult, RecallSettings

WINDOW = talking.CONFIG.memory.window
FILLER = (("Nice weather.", "It is."), ("I saw a film.", "Was it good?"))
PEOPLE = [
    Person(
        f"My dog is called {name}. I have {number} cats.",
        (
            Question("dog", "What is my dog called?", (f"It is {name}.", "It is Tom.", "It is B."), (name,)),
            Question("cats", "How many cats?", (f"{number}", "2", "77"), (number,)),
        ),
        FILLER,
    )
    for name, number in (("Rex", "5"), ("Ada", "41"), ("Kim", "9"))
]


class Stub:
    """Likes some answers best, and answers with ``said``; remembers what it read and was asked."""

    def __init__(self, likes: Collection[str] = (), said: str = "") -> None:
        self.likes, self.said = likes, said
        self.parts: list[Part] = []
        self.asked: list[tuple[int, ...]] = []

    def read(self, parts: Sequence[Part]) -> None:
        self.parts += parts

    def judge(self, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
        texts = [talking.tokenizer().decode(ids) for ids in answers]
        return [0.0 if text in self.likes else -float(len(text)) for text in texts]

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stop: Collection[int]) -> list[list[int]]:
        self.asked += [tuple(prompt) for prompt in prompts]
        return [talking.tokenizer().encode(self.said)[:limit] for _ in prompts]


def _measure(
    people: Sequence[Person] = PEOPLE, distances: tuple[float, ...] = (1.0, 2.5), sane: int = 2, **more: Any
) -> RecallResult:
    settings = RecallSettings(distances, sane)
    return Recall(talking.model(), talking.chat(), settings, prompts=("Hi", "the cat"), **more).measure(
        people
    )


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Stub]]:
    """Every reader is a stub: on knows the dogs, off nothing, the ceiling all."""
    made: dict[str, list[Stub]] = {condition: [] for condition in CONDITIONS}
    right = [question.answers[0] for person in PEOPLE for question in person.questions]
    likes = {"on": right[::2], "off": [], "ceiling": right}
    said = {"on": "I think it is Rex!", "off": "", "ceiling": "rex, ada, kim, 5, 41, 9"}

    def reader(_self: Recall, condition: str, *_: object) -> Stub:
        made[condition].append(Stub(likes[condition], said[condition]))
        return made[condition][-1]

    monkeypatch.setattr(Recall, "_reader", reader)
    return made


def _shares(result: RecallResult, condition: str) -> list[tuple[float, float]]:
    return [
        (
            sum(one.ranked_first for one in distance.judged[condition]) / len(distance.judged[condition]),
            sum(one.free for one in distance.judged[condition]) / len(distance.judged[condition]),
        )
        for distance in result.distances
    ]


def test_what_a_reader_knows_is_what_it_gets_right(stubs: dict[str, list[Stub]]) -> None:
    result = _measure()
    assert len(stubs["on"]) == 3
    assert _shares(result, "on") == [(0.5, 1 / 6)] * 2
    assert _shares(result, "ceiling") == [(1.0, 1.0)] * 2
    assert all(free == 0.0 for _, free in _shares(result, "off"))
    assert [(one.person, one.kind) for one in result.distances[1].judged["on"]] == [
        (person, kind) for person in range(3) for kind in ("dog", "cats")
    ]


def test_all_readers_read_the_same(stubs: dict[str, list[Stub]]) -> None:
    _measure()
    for on, off, ceiling in zip(*stubs.values(), strict=True):
        assert on.parts == off.parts == ceiling.parts
        assert on.asked == off.asked == ceiling.asked


def test_facts_are_told_once_and_have_left_the_window(stubs: dict[str, list[Stub]]) -> None:
    result = _measure()
    for person, stub in zip(PEOPLE, stubs["on"], strict=True):
        said = [talking.tokenizer().decode(ids) for origin, ids in stub.parts if origin == "user"]
        assert said[0] == person.told
        assert said[1:5] == ["Nice weather.", "I saw a film."] * 2
        assert person.told not in said[1:]
        answers = [talking.tokenizer().decode(ids) for origin, ids in stub.parts if origin == "model"]
        assert answers[:3] == [recall.GREETING, "It is.", "Was it good?"]
        told_in_window = talking.tokenizer().decode(flat(stub.parts)[-WINDOW:])
        assert person.told[-8:] not in told_in_window
    for distance in result.distances:
        assert distance.windows * WINDOW <= distance.tokens < distance.windows * WINDOW + 40


def test_questions_end_with_the_opened_answer_where_the_session_stands(stubs: dict[str, list[Stub]]) -> None:
    _measure(distances=(1.0,))
    stub = stubs["on"][0]
    opened = (*[talking.START], *talking.tokenizer().encode("assistant\n"))
    for question, prompt in zip(PEOPLE[0].questions, stub.asked, strict=True):
        assert prompt[-len(opened) :] == opened
        assert question.text in talking.tokenizer().decode(prompt)
        assert prompt[0] in talking.chat().stop_ids  # the answer before it ends


def test_one_prompt_is_answered_once(stubs: dict[str, list[Stub]]) -> None:
    one = PEOPLE[0].questions[0]
    _measure([replace(PEOPLE[0], questions=(one, one))], distances=(1.0,))
    assert len(stubs["on"][0].asked) == 1


def test_scores_are_the_log_likelihoods(stubs: dict[str, list[Stub]]) -> None:
    result = _measure(distances=(1.0,))
    assert result.distances[0].judged["on"][0].scores == (0.0, -len("It is Tom."), -len("It is B."))


def test_where_asked_for_a_fresh_chats_likelihoods_are_subtracted() -> None:
    plain = _measure(distances=(1.0,)).distances[0].judged
    above = [
        replace(person, questions=tuple(replace(each, above_fresh=True) for each in person.questions))
        for person in PEOPLE
    ]
    found = _measure(above, distances=(1.0,)).distances[0].judged
    fresh = SessionReader(talking.model(), learn=False)
    for number, question in enumerate(PEOPLE[1].questions):
        prior = fresh.judge(
            talking.chat().question(question.text, None),
            [talking.tokenizer().encode(answer) for answer in question.answers],
        )
        for condition in CONDITIONS:
            scores = plain[condition][2 + number].scores
            expected = [score - each for score, each in zip(scores, prior, strict=True)]
            assert found[condition][2 + number].scores == pytest.approx(expected, abs=2e-3)


def test_each_condition_is_another_reader() -> None:
    stub = Stub()
    found = _measure(PEOPLE[:1], distances=(2.0,), ceiling=lambda _: stub).distances[0].judged
    answers = [talking.tokenizer().encode(answer) for answer in PEOPLE[0].questions[0].answers]
    scores: dict[str, list[float]] = {}
    for condition, learn in (("on", True), ("off", False)):
        reader = SessionReader(talking.model(), learn=learn)
        reader.read(stub.parts)
        scores[condition] = reader.judge(stub.asked[0], answers)
        assert found[condition][0].scores == pytest.approx(scores[condition], abs=1e-5)
    assert scores["on"] != pytest.approx(scores["off"], abs=1e-3)
    everything = ContextReader(talking.model(), 2000)
    everything.read(stub.parts)
    expected = everything.judge(stub.asked[0], answers)
    own = _measure(PEOPLE[:1], distances=(2.0,)).distances[0].judged["ceiling"]
    assert own[0].scores == pytest.approx(expected, abs=2e-3)
    assert expected != pytest.approx(scores["off"], abs=1e-2)


def test_a_session_is_asked_on_its_way() -> None:
    """The first distance is asked as if there were no second one; the second as if there were no first."""
    together = _measure(PEOPLE[:1])
    for index, windows in enumerate((1.0, 2.5)):
        alone = _measure(PEOPLE[:1], distances=(windows,)).distances[0]
        for condition in CONDITIONS:
            for one, other in zip(
                alone.judged[condition], together.distances[index].judged[condition], strict=True
            ):
                assert one.scores == pytest.approx(other.scores, abs=2e-3)


@pytest.mark.parametrize(("sane", "sessions"), [(1, 1), (2, 2), (9, 3)])
def test_some_sessions_are_asked_unrelated_things(sane: int, sessions: int) -> None:
    result = _measure(distances=(1.0,), sane=sane)
    assert len(result.distances[0].sanity) == sessions
    assert all(found.kl > 0 for found in result.distances[0].sanity)


def test_the_ceiling_can_be_another_reader() -> None:
    asked: list[int] = []
    stub = Stub([PEOPLE[0].questions[1].answers[0]])

    def ceiling(tokens: int) -> Stub:
        asked.append(tokens)
        return stub

    result = _measure(PEOPLE[:1], distances=(1.0,), ceiling=ceiling)
    assert [one.ranked_first for one in result.distances[0].judged["ceiling"]] == [False, True]
    (tokens,) = asked
    longest = max(len(prompt) for prompt in stub.asked) + recall.ANSWER_TOKENS
    assert tokens >= sum(len(ids) for _, ids in stub.parts) + longest


def test_progress_names_people(capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[str] = []
    settings = RecallSettings((1.0,), 1)
    measure = Recall(talking.model(), talking.chat(), settings, prompts=("Hi",)).measure
    measure(PEOPLE[:2], lambda step, *_: steps.append(step))
    assert list(dict.fromkeys(steps)) == [
        "unrelated prompts to the unadapted model",
        "person 1 of 2",
        "person 2 of 2",
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("scores", "first"), [((-1.0, -2.0, -3.0), True), ((-2.0, -1.0, -3.0), False), ((-1.0, -1.0), False)]
)
def test_a_tie_is_not_known(scores: tuple[float, ...], first: bool) -> None:
    assert Judged(0, "dog", scores, free=False).ranked_first is first


@pytest.mark.parametrize(
    ("distances", "sane", "message"),
    [
        ((0.5,), 1, r"distance: .* at least 1, found \(0.5,\)"),
        ((), 1, "distance: expected"),
        ((8.0, 2.0), 1, "ascending"),
        ((2.0, 2.0), 1, "ascending"),
        ((float("nan"),), 1, "distance: expected"),
        ((float("inf"),), 1, "distance: expected"),
        ((2.0,), 0, "sanity people: expected at least 1, found 0"),
    ],
)
def test_other_settings_are_refused(distances: tuple[float, ...], sane: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecallSettings(distances, sane)
