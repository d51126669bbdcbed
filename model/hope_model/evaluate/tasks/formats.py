"""From rows of a benchmark to what is scored: prompts exactly as the tasks of lm-eval write them.

A row is either as the benchmark publishes it or reduced to ``context``, ``choices`` and ``gold``; every
format below says which fields it reads. Every continuation starts with the space that separates it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hope_model.evaluate.rows import Row, RowError, number_of, text_of, texts_of


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
        goal, choices = text_of(row, "goal"), [text_of(row, "sol1"), text_of(row, "sol2")]
        return _choice(f"Question: {goal}\nAnswer:", choices, number_of(row, "label"))
    return _choice(
        f"Question: {text_of(row, 'context')}\nAnswer:", texts_of(row, "choices"), number_of(row, "gold")
    )


def hellaswag(row: Row) -> Item:
    """``activity_label, ctx_a, ctx_b, endings, label``, or ``context, choices, gold``."""
    if "endings" in row:
        second = str(row.get("ctx_b", "")).capitalize()  # empty where the first says it all
        context = f"{text_of(row, 'activity_label')}: {text_of(row, 'ctx_a')} {second}"
        endings, gold = texts_of(row, "endings"), number_of(row, "label")
    else:
        context, endings, gold = text_of(row, "context"), texts_of(row, "choices"), number_of(row, "gold")
    return _choice(_without_brackets(context), [_without_brackets(ending) for ending in endings], gold)


def winogrande(row: Row) -> Item:
    """``sentence, option1, option2, answer``, or ``contexts, continuation, gold``: the rest of the sentence
    after either name.
    """
    if "sentence" in row:
        before, blank, rest = text_of(row, "sentence").partition("_")
        if not blank:
            raise RowError(f"'sentence' with a blank '_', found {row['sentence']!r}")
        contexts = [before + text_of(row, "option1"), before + text_of(row, "option2")]
        rest, gold = rest.strip(), number_of(row, "answer") - 1
    else:
        contexts, rest, gold = texts_of(row, "contexts"), text_of(row, "continuation"), number_of(row, "gold")
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
        labels, key = texts_of(choices, "label"), text_of(row, "answerKey")
        if key not in labels:
            raise RowError(f"'answerKey' among {labels}, found {key!r}")
        question, answers, gold = text_of(row, "question"), texts_of(choices, "text"), labels.index(key)
    else:
        question = text_of(row, "context").removeprefix("Question: ")
        answers, gold = texts_of(row, "choices"), number_of(row, "gold")
    return _choice(f"Question: {question}\nAnswer:", answers, gold)


def siqa(row: Row) -> Item:
    """``context, question`` and ``answerA, answerB, answerC, label`` (from 1), or ``choices, gold``."""
    prompt = f"Q: {text_of(row, 'context')} {text_of(row, 'question')}\nA:"
    if "answerA" in row:
        answers = [text_of(row, f"answer{letter}") for letter in "ABC"]
        return _choice(prompt, answers, number_of(row, "label") - 1)
    return _choice(prompt, texts_of(row, "choices"), number_of(row, "gold"))


def boolq(row: Row) -> Item:
    """``passage, question, label`` (or ``answer``), or ``context, gold`` with the context "Passage: …", a new
    line, "Question: …?".
    """
    if "passage" in row:
        label = row.get("label", row.get("answer"))
        if not isinstance(label, bool | int):
            raise RowError(f"'label' of 0 or 1, found {label!r}")
        prompt, gold = f"{text_of(row, 'passage')}\nQuestion: {text_of(row, 'question')}?", int(label)
    else:
        prompt, gold = text_of(row, "context").removeprefix("Passage: "), number_of(row, "gold")
    return _choice(f"{prompt}\nAnswer:", ["no", "yes"], gold)


def lambada(row: Row) -> Item:
    """``text``, or ``context`` and ``target``: the last word."""
    if "text" in row:
        context, _, target = text_of(row, "text").rpartition(" ")
    else:
        context, target = text_of(row, "context"), text_of(row, "target")
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


def _without_brackets(text: str) -> str:
    """HellaSwag's texts from WikiHow have section marks in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")
