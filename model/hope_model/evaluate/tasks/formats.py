"""From rows of a benchmark to what is scored: prompts exactly as the tasks of lm-eval write them.

A row is either as the benchmark publishes it or reduced to ``context``, ``choices`` and ``gold``; every
format below says which fields it reads. Every continuation starts with the space that separates it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


class RowError(Exception):
    """What a row was expected to hold; the reader of the file adds its name and number."""


@dataclass(frozen=True)
class Pair:
    """How likely is ``continuation`` after ``context``?"""

    context: str
    continuation: str


@dataclass(frozen=True)
class Item:
    """One question: the likeliest pair is the answer. gold: the right one. lengths: characters of the
    answers.
    """

    pairs: tuple[Pair, ...]
    gold: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """A benchmark: how its rows become items. normalised: accuracy by log-likelihood per character is
    usual.
    """

    item: Callable[[Row], Item]
    normalised: bool = True


def piqa(row: Row) -> Item:
    """``goal, sol1, sol2, label``, or ``context, choices, gold``."""
    if "goal" in row:
        goal, choices = _text(row, "goal"), [_text(row, "sol1"), _text(row, "sol2")]
        return _choice(f"Question: {goal}\nAnswer:", choices, _number(row, "label"))
    return _choice(
        f"Question: {_text(row, 'context')}\nAnswer:", _texts(row, "choices"), _number(row, "gold")
    )


def hellaswag(row: Row) -> Item:
    """``activity_label, ctx_a, ctx_b, endings, label``, or ``context, choices, gold``."""
    if "endings" in row:
        second = str(row.get("ctx_b", "")).capitalize()  # empty where the first says it all
        context = f"{_text(row, 'activity_label')}: {_text(row, 'ctx_a')} {second}"
        endings, gold = _texts(row, "endings"), _number(row, "label")
    else:
        context, endings, gold = _text(row, "context"), _texts(row, "choices"), _number(row, "gold")
    return _choice(_without_brackets(context), [_without_brackets(ending) for ending in endings], gold)


def winogrande(row: Row) -> Item:
    """``sentence, option1, option2, answer``, or ``contexts, continuation, gold``: the rest of the sentence
    after either name.
    """
    if "sentence" in row:
        before, blank, rest = _text(row, "sentence").partition("_")
        if not blank:
            raise RowError(f"'sentence' with a blank '_', found {row['sentence']!r}")
        contexts = [before + _text(row, "option1"), before + _text(row, "option2")]
        rest, gold = rest.strip(), _number(row, "answer") - 1
    else:
        contexts, rest, gold = _texts(row, "contexts"), _text(row, "continuation"), _number(row, "gold")
    pairs = tuple(Pair(context, f" {rest}") for context in contexts)
    return _checked(Item(pairs, gold, tuple(len(context) for context in contexts)))


def arc(row: Row) -> Item:
    """``question, choices {text, label}, answerKey``, or ``context, choices, gold``; a context may begin with
    "Question: ".
    """
    if "answerKey" in row:
        choices = row.get("choices")
        if not isinstance(choices, Mapping):
            raise RowError(f"'choices' with 'text' and 'label', found {choices!r}")
        labels, key = _texts(choices, "label"), _text(row, "answerKey")
        if key not in labels:
            raise RowError(f"'answerKey' among {labels}, found {key!r}")
        question, answers, gold = _text(row, "question"), _texts(choices, "text"), labels.index(key)
    else:
        question = _text(row, "context").removeprefix("Question: ")
        answers, gold = _texts(row, "choices"), _number(row, "gold")
    return _choice(f"Question: {question}\nAnswer:", answers, gold)


def siqa(row: Row) -> Item:
    """``context, question`` and ``answerA, answerB, answerC, label`` (from 1), or ``choices, gold``."""
    prompt = f"Q: {_text(row, 'context')} {_text(row, 'question')}\nA:"
    if "answerA" in row:
        answers = [_text(row, f"answer{letter}") for letter in "ABC"]
        return _choice(prompt, answers, _number(row, "label") - 1)
    return _choice(prompt, _texts(row, "choices"), _number(row, "gold"))


def boolq(row: Row) -> Item:
    """``passage, question, label`` (or ``answer``), or ``context, gold`` with the context "Passage: …", a new
    line, "Question: …?".
    """
    if "passage" in row:
        label = row.get("label", row.get("answer"))
        if not isinstance(label, bool | int):
            raise RowError(f"'label' of 0 or 1, found {label!r}")
        prompt, gold = f"{_text(row, 'passage')}\nQuestion: {_text(row, 'question')}?", int(label)
    else:
        prompt, gold = _text(row, "context").removeprefix("Passage: "), _number(row, "gold")
    return _choice(f"{prompt}\nAnswer:", ["no", "yes"], gold)


def lambada(row: Row) -> Item:
    """``text``, or ``context`` and ``target``: the last word."""
    if "text" in row:
        context, _, target = _text(row, "text").rpartition(" ")
    else:
        context, target = _text(row, "context"), _text(row, "target")
    return _choice(context, [target], 0)


TASKS: dict[str, Task] = {
    "lambada": Task(lambada),
    "piqa": Task(piqa),
    "hellaswag": Task(hellaswag),
    "winogrande": Task(winogrande, normalised=False),
    "arc_easy": Task(arc),
    "arc_challenge": Task(arc),
    "siqa": Task(siqa, normalised=False),
    "boolq": Task(boolq, normalised=False),
}


def _choice(context: str, answers: Sequence[str], gold: int) -> Item:
    pairs = tuple(Pair(context, f" {answer}") for answer in answers)
    return _checked(Item(pairs, gold, tuple(len(answer) for answer in answers)))


def _checked(item: Item) -> Item:
    if not item.pairs:
        raise RowError("one answer at least, found none")
    if not 0 <= item.gold < len(item.pairs):
        raise RowError(f"the right answer's number from 0 to {len(item.pairs) - 1}, found {item.gold}")
    return item


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"a text as {name!r}, found {value!r}")
    return value


def _texts(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise RowError(f"a list of texts as {name!r}, found {value!r}")
    return value


def _number(row: Row, name: str) -> int:
    value = row.get(name)
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if type(value) is not int:
        raise RowError(f"a whole number as {name!r}, found {value!r}")
    return value


def _without_brackets(text: str) -> str:
    """HellaSwag's texts from WikiHow have section marks in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")
