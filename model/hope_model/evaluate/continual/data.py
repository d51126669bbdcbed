"""Rows of a classification set, as tasks of a class-incremental stream."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.rows import Row, text_of


@dataclass(frozen=True)
class Example:
    """A text and its class, as the file names it."""

    text: str
    label: str


@dataclass(frozen=True)
class StreamTask:
    """What comes at one time: its classes, what is told of them, and what is asked."""

    classes: tuple[str, ...]
    told: tuple[Example, ...]
    asked: tuple[Example, ...]


@dataclass(frozen=True)
class ContinualSettings:
    """A stream's sizes.

    tasks: T. classes: of all tasks together, drawn by seed; None: all of the file. examples, questions: of
    each class. context_tokens: of the examples in a prompt, with the condition "context".
    """

    tasks: int = 5
    classes: int | None = None
    examples: int = 10
    questions: int = 5
    context_tokens: int = 1_024

    def __post_init__(self) -> None:
        for name in ("tasks", "examples", "questions", "context_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.classes is not None and self.classes < max(2, self.tasks):
            raise ConfigError(
                f"classes: expected 2 and one for each of {self.tasks} tasks at least, found {self.classes}"
            )


def parse_example(row: Row) -> Example:
    """``text, label``."""
    return Example(text_of(row, "text"), text_of(row, "label"))


def name_of(label: str) -> str:
    """A class as people write it."""
    return " ".join(label.replace("_", " ").split())


def stream_tasks(
    told: Sequence[Example], asked: Sequence[Example] | None, settings: ContinualSettings, seed: int
) -> list[StreamTask]:
    """Classes in groups as even as can be, all drawn by seed: their order, what is told and what is asked.

    Args:
        asked: where questions are drawn from; None: from ``told``, whose rows are never both.

    Raises:
        DataError: too few classes, too few rows of a class, or two classes of one name.
    """
    rng = random.Random(f"{seed}")
    by_class = _by_class(told)
    labels = sorted(by_class)
    wanted = settings.classes or len(labels)
    if len(labels) < max(wanted, settings.tasks, 2):
        raise DataError(
            f"classes: expected {max(wanted, settings.tasks, 2)} at least for {settings.tasks} tasks, "
            f"found {len(labels)}"
        )
    chosen = rng.sample(labels, wanted)
    if len({name_of(label) for label in chosen}) < len(chosen):
        raise DataError("classes: expected different names, found some that differ in spaces and '_' alone")
    questions = None if asked is None else _by_class(asked)
    return [_task(labels, by_class, questions, settings, rng) for labels in _groups(chosen, settings.tasks)]


def _task(
    labels: Sequence[str],
    told: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Example]] | None,
    settings: ContinualSettings,
    rng: random.Random,
) -> StreamTask:
    examples: list[Example] = []
    questions: list[Example] = []
    for label in labels:
        if asked is None:
            drawn = _draw(rng, label, told[label], settings.examples + settings.questions, "rows")
            questions += drawn[settings.examples :]
        else:
            drawn = _draw(rng, label, told[label], settings.examples, "rows to tell")
            questions += _draw(rng, label, asked.get(label, ()), settings.questions, "rows to ask")
        examples += drawn[: settings.examples]
    rng.shuffle(examples)
    return StreamTask(tuple(labels), tuple(examples), tuple(questions))


def _draw(rng: random.Random, label: str, rows: Sequence[Example], count: int, what: str) -> list[Example]:
    if len(rows) < count:
        raise DataError(f"class {label!r}: expected {count} {what} at least, found {len(rows)}")
    return rng.sample(rows, count)


def _by_class(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Different texts alone: a question that was told would be no question."""
    found: dict[str, list[Example]] = {}
    for example in dict.fromkeys(examples):
        found.setdefault(example.label, []).append(example)
    return found


def _groups(labels: Sequence[str], count: int) -> list[Sequence[str]]:
    size, rest = divmod(len(labels), count)
    ends = [number * size + min(number, rest) for number in range(count + 1)]
    return [labels[start:end] for start, end in pairwise(ends)]
