"""bAbI's questions in long text: facts among sentences of a book, and a question at the end.

As BABILong has them (arXiv 2406.10149): the facts keep their order, what stands between them is of no use.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.haystack import Haystack
from hope_model.evaluate.rows import Row, RowError, number_of, text_of, texts_of
from hope_model.evaluate.sessions.asking import Question, Reply

ANSWER_TOKENS = 12
"""Of a free answer."""
Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class Story:
    """A question of a file. context: the whole text, of ``words`` words; None for facts alone."""

    task: int
    facts: tuple[str, ...]
    question: str
    answer: str
    context: str | None = None
    words: int | None = None


@dataclass(frozen=True)
class Item:
    """One session: it reads ``context`` and is asked. right: the number of the right answer."""

    number: int
    task: int
    length: int
    context: tuple[int, ...]
    question: Question
    right: int
    answer: str

    @property
    def key(self) -> dict[str, int]:
        return {"number": self.number, "task": self.task, "length": self.length}

    def found(self, reply: Reply) -> dict[str, object]:
        """What the reply says, for the records."""
        return {
            "likeliest": reply.best() == self.right,
            "greedy": _same(reply.text, self.answer),
            "answers": len(reply.nats),
            "nats": [round(each, 4) for each in reply.nats],
            "text": reply.text,
        }


def parse_story(row: Row) -> Story:
    """``task, facts, question, answer`` as bAbI's rows, with ``context, words`` as a whole text's."""
    task, facts = number_of(row, "task"), tuple(texts_of(row, "facts"))
    question, answer = text_of(row, "question"), text_of(row, "answer")
    if "context" in row:
        return Story(task, facts, question, answer, text_of(row, "context"), number_of(row, "words"))
    if not facts:
        raise RowError("one fact at least as 'facts', found none")
    return Story(task, facts, question, answer)


def answers_by_task(stories: Sequence[Story], name: str) -> dict[int, list[str]]:
    """The answers among which a task's are: all that its rows have.

    Raises:
        DataError: a task whose rows all have the same answer, so that nothing could be told from them.
    """
    found: dict[int, set[str]] = {}
    for story in stories:
        found.setdefault(story.task, set()).add(story.answer)
    for task, answers in found.items():
        if len(answers) < 2:
            raise DataError(f"{name}: expected two answers at least of task {task}, found {sorted(answers)}")
    return {task: sorted(answers) for task, answers in found.items()}


def whole_texts(stories: Sequence[Story], lead: Lead, encode: Encode, *, limit: int | None) -> Iterator[Item]:
    """The texts of a file, at most ``limit`` of each task and length."""
    seen: dict[tuple[int, int], int] = {}
    for number, story in enumerate(stories):
        if story.context is None or story.words is None:
            raise DataError(
                f"expected a 'context' in every row, as in others, found none: {story.question!r}"
            )
        place = (story.task, story.words)
        seen[place] = seen.get(place, 0) + 1
        if limit is None or seen[place] <= limit:
            (context,) = encode([story.context])
            yield lead.item(number, story, story.words, context)


def hidden_facts(
    stories: Sequence[Story],
    haystack: Haystack,
    lead: Lead,
    encode: Encode,
    *,
    lengths: Sequence[int],
    limit: int,
    seed: int,
) -> Iterator[Item]:
    """``limit`` stories of each task, drawn by seed, in texts of each of ``lengths`` tokens.

    Raises:
        DataError: a text that does not hold its facts, or a haystack that is too short.
    """
    if not lengths or any(length < 1 for length in lengths):
        raise ConfigError(f"lengths: expected positive numbers of tokens, found {list(lengths)}")
    for task in sorted({story.task for story in stories}):
        numbers = [number for number, story in enumerate(stories) if story.task == task]
        drawn = random.Random(f"{seed}/{task}").sample(numbers, min(limit, len(numbers)))
        for length in lengths:
            for number in drawn:
                rng = random.Random(f"{seed}/{task}/{length}/{number}")
                facts = encode([f"{fact} " for fact in stories[number].facts])
                places = sorted(rng.random() for _ in facts)
                context = haystack.hide(length, list(zip(places, facts, strict=True)), rng)
                yield lead.item(number, stories[number], length, context)


class Lead:
    """What surrounds a text: solved examples of its task before it, its question behind it.

    Args:
        answers: by task.
        examples: solved stories; ``shots`` of a task, drawn by seed, come before each of its texts.

    Raises:
        DataError: fewer examples of a task than shots.
    """

    def __init__(
        self,
        answers: Mapping[int, Sequence[str]],
        encode: Encode,
        *,
        examples: Sequence[Story] = (),
        shots: int = 0,
        seed: int = 0,
    ) -> None:
        self._answers, self._encode = answers, encode
        self._ids = {
            task: tuple(map(tuple, encode([f" {each}" for each in own]))) for task, own in answers.items()
        }
        self._before: dict[int, list[int]] = {}
        for task in answers:
            own = [story for story in examples if story.task == task]
            if len(own) < shots:
                raise DataError(f"examples: expected {shots} of task {task} at least, found {len(own)}")
            drawn = random.Random(f"{seed}/{task}/shots").sample(own, shots)
            (self._before[task],) = encode(["".join(map(_solved, drawn))])

    def item(self, number: int, story: Story, length: int, context: Sequence[int]) -> Item:
        """``context`` with what surrounds it."""
        (prompt,) = self._encode([_asked(story.question)])
        answers = self._ids[story.task]
        right = self._answers[story.task].index(story.answer)
        limit = max(ANSWER_TOKENS, *map(len, answers))
        before = self._before[story.task]
        question = Question(tuple(prompt), answers, limit)
        return Item(number, story.task, length, (*before, *context), question, right, story.answer)


def _asked(question: str) -> str:
    return f"\n\nQuestion: {question}\nAnswer:"


def _solved(story: Story) -> str:
    return f"{' '.join(story.facts)}{_asked(story.question)} {story.answer}\n\n"


def _same(text: str, answer: str) -> bool:
    """Whether a free answer begins with the right one, in upper or lower case."""
    said = text.strip().lower().removeprefix("the ")
    right = answer.lower()
    return said.startswith(right) and not said[len(right) : len(right) + 1].isalnum()
