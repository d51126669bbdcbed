"""From likelihoods to the figures of a task, with standard errors."""

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from hope_model.convert.progress import Progress, silent
from hope_model.evaluate.tasks.files import detokenised, words_of
from hope_model.evaluate.tasks.formats import Item, Task
from hope_model.evaluate.tasks.scorer import Judged, Likelihood, Scorer, judged_pair, windows

_MOST_NATS = math.log(sys.float_info.max)
Figures = dict[str, float]
Found = dict[str, Any]
"""What was found for one row, as JSON."""


def choice_figures(
    scorer: Scorer, task: Task, items: Sequence[Item], *, batch: int, progress: Progress = silent
) -> tuple[Figures, list[Found]]:
    """Accuracy of the likeliest answer: as it is, and per character of the answer. For a row ``nats``, the
    log-likelihoods of its answers.
    """
    pairs = [judged_pair(scorer, pair) for item in items for pair in item.pairs]
    found = iter(_scored(scorer, pairs, batch, progress))
    rows: list[Found] = []
    for item in items:
        nats = [likelihood.nats for likelihood in islice(found, len(item.pairs))]
        row = {"nats": nats, "acc": float(_first_best(nats) == item.gold)}
        if task.normalised:
            each = [value / max(1, length) for value, length in zip(nats, item.lengths, strict=True)]
            row["acc_norm"] = float(_first_best(each) == item.gold)
        rows.append(row)
    figures = {"rows": float(len(items))}
    for name in ("acc", "acc_norm") if task.normalised else ("acc",):
        figures |= _mean(name, [row[name] for row in rows])
    return figures, rows


def last_word_figures(
    scorer: Scorer, items: Sequence[Item], *, batch: int, progress: Progress = silent
) -> tuple[Figures, list[Found]]:
    """Perplexity of the last word, and how often the likeliest tokens are that word. For a row ``nats`` of
    the word.
    """
    found = _scored(scorer, [judged_pair(scorer, item.pairs[0]) for item in items], batch, progress)
    rows: list[Found] = [{"nats": [one.nats], "acc": float(one.greedy)} for one in found]
    nats = _mean("nats", [one.nats for one in found])
    perplexity = _perplexity(-nats["nats"])
    figures = {
        "rows": float(len(items)),
        "perplexity": perplexity,
        "perplexity_stderr": perplexity * nats["nats_stderr"] if math.isfinite(perplexity) else math.inf,
        **_mean("acc", [row["acc"] for row in rows]),
    }
    return figures, rows


def text_figures(
    scorer: Scorer,
    articles: Sequence[str],
    *,
    window: int | None,
    batch: int,
    progress: Progress = silent,
) -> tuple[Figures, list[Found]]:
    """Perplexity per word and byte of the articles as the file has them, and per token of what was read.

    What is read is the article as people write; words and bytes are those of the file. For an article
    ``nats``, its log-likelihood.
    """
    cut = [windows(scorer.encode(detokenised(article)), scorer.prefix(), window) for article in articles]
    parts = [part for own in cut for part in own]
    found = iter(_scored(scorer, parts, batch, progress))
    rows: list[Found] = [{"nats": [sum(one.nats for one in islice(found, len(own)))]} for own in cut]
    nats = -sum(row["nats"][0] for row in rows)
    words = sum(map(words_of, articles))
    size = sum(len(article.encode()) for article in articles)
    tokens = sum(part.count for part in parts)
    figures = {
        "articles": float(len(articles)),
        "tokens": float(tokens),
        "word_perplexity": _perplexity(nats / words),
        "byte_perplexity": _perplexity(nats / size),
        "bits_per_byte": nats / size / math.log(2),
        "token_perplexity": _perplexity(nats / tokens),
    }
    return figures, rows


def _scored(scorer: Scorer, parts: Sequence[Judged], batch: int, progress: Progress) -> list[Likelihood]:
    """In the order of ``parts``; scored longest first, so that a batch's texts are about as long."""
    order = sorted(range(len(parts)), key=lambda index: -len(parts[index].ids))
    found = {index: Likelihood(0.0, True) for index in order if not parts[index].count}
    order = [index for index in order if index not in found]
    for group in _groups(order, batch):
        found.update(zip(group, scorer.score([parts[index] for index in group]), strict=True))
        progress("texts scored", len(found), len(parts))
    return [found[index] for index in range(len(parts))]


def _groups(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[at : at + size] for at in range(0, len(order), size))


def _first_best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _perplexity(nats: float) -> float:
    """``exp``, infinite where it is beyond a float: a text of one long word has so much surprise a word."""
    return math.exp(nats) if nats < _MOST_NATS else math.inf


def _mean(name: str, values: Sequence[float]) -> Figures:
    """The mean and its standard error, ``sd / sqrt(n)`` with ``n - 1`` in the variance."""
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return {name: mean, f"{name}_stderr": math.sqrt(variance / count)}
