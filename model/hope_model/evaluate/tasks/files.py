"""Rows of task files, and the articles of a WikiText file."""

import re
from pathlib import Path

from hope_model.errors import DataError
from hope_model.evaluate.rows import parse_rows, read_file
from hope_model.evaluate.tasks.formats import Item, Task

_HEADING = re.compile(r"^ ?= [^=].* = ?$")


def read_items(path: Path, task: Task, limit: int | None = None) -> list[Item]:
    """The items of a ``.jsonl`` file, the first ``limit`` of them.

    Raises:
        DataError: the file cannot be read, or a row is broken; the message has its number and what was
        expected.
    """
    return parse_rows(path, task.item, limit)


def read_articles(path: Path, limit: int | None = None) -> list[str]:
    """The articles of a WikiText file, each from its heading ``= Title =`` to the next, as one text.

    Raises:
        DataError: the file cannot be read, or has no heading.
    """
    articles: list[list[str]] = []
    for line in read_file(path).split("\n"):
        if _HEADING.match(line.rstrip()) and (not articles or not articles[-1][-1].strip()):
            articles.append([])
        if articles:
            articles[-1].append(line)
    if not articles:
        raise DataError(f"{path.name}: expected an article's heading '= Title =', found none")
    return ["\n".join(lines) for lines in articles[:limit]]


def detokenised(article: str) -> str:
    """An article as people write: WikiText sets spaces around punctuation, and @ around those in numbers."""
    text = article.replace("s '", "s'")
    text = re.sub("/' [0-9]/", "/'[0-9]/", text)  # hardly what was meant, but what lm-eval does
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)
    for mark in ":;.!?,":
        text = text.replace(f" {mark} ", f"{mark} ")
    for left, right in (("(", ")"), ("[", "]"), ("{", "}")):
        inside = rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}"
        text = re.sub(inside, rf"{left}\1{right}", text)
    for quote in ('"', "'"):
        text = re.sub(rf"{quote}\s*([^{quote}]*?)\s*{quote}", rf"{quote}\1{quote}", text)
    for equals in ("= = = =", "= = =", "= ="):
        text = text.replace(equals, equals.replace(" ", ""))
    text = text.replace(" ° ", "°").replace(" \n", "\n").replace("\n ", "\n")
    return text.replace(" N ", " 1 ").replace(" 's", "'s")


def words_of(article: str) -> int:
    """Words of the article as the file has it, counted as lm-eval counts them."""
    return len(re.split(r"\s+", article))
