"""From likelihoods to the figures of a task, with standard errors."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from hope_model.convert.progress import Progress, silent
from hope_model.evaluate.tasks.files import detokenised, words_of
from hope_model.evaluate.tasks.formats import Item, Task
from hope_model.evaluate.tasks.scorer import Judged, Likelihood, Scorer, judged_pair, windows

Figures = dict[str, float]


def choice_figures(
    scorer: Scorer, task: Task, items: Sequence[Item], *, batch: int, progress: Progress = silent
) -> Figures:
    """Accuracy of the likeliest answer: as it is, and per character of the answer."""
    pairs = [judged_pair(scorer, pair) for item in items for pair in item.pairs]
    found = iter(_scored(scorer, pairs, batch, progress))
    plain, normalised = [], []
    for item in items:
        nats = [likelihood.nats for likelihood in islice(found, len(item.pairs))]
        plain.append(float(_first_best(nats) == item.gold))
        each = [value / max(1, length) for value, length in zip(nats, item.lengths, strict=True)]
        normalised.append(float(_first_best(each) == item.gold))
    figures = {"rows": float(len(items)), **_mean("acc", plain)}
    return figures | (_mean("acc_norm", normalised) if task.normalised else {})


def last_word_figures(
    scorer: Scorer, items: Sequence[Item], *, batch: int, progress: Progress = silent
) -> Figures:
    """Perplexity of the last word, and how often the likeliest tokens are that word."""
    found = _scored(scorer, [judged_pair(scorer, item.pairs[0]) for item in items], batch, progress)
    nats = _mean("nats", [likelihood.nats for likelihood in found])
    perplexity = math.exp(-nats["nats"])
    return {
        "rows": float(len(items)),
        "perplexity": perplexity,
        "perplexity_stderr": perplexity * nats["nats_stderr"],
        **_mean("acc", [float(likelihood.greedy) for likelihood in found]),
    }


def text_figures(
    scorer: Scorer,
    articles: Sequence[str],
    *,
    window: int | None,
    batch: int,
    progress: Progress = silent,
) -> Figures:
    """Perplexity per word and byte of the articles as the file has them, and per token of what was read.

    What is read is the article as people write; words and bytes are those of the file.
    """
    parts = [
        part
        for article in articles
        for part in windows(scorer.encode(detokenised(article)), scorer.prefix(), window)
    ]
    nats = -sum(likelihood.nats for likelihood in _scored(scorer, parts, batch, progress))
    words = sum(map(words_of, articles))
    size = sum(len(article.encode()) for article in articles)
    tokens = sum(part.count for part in parts)
    return {
        "articles": float(len(articles)),
        "tokens": float(tokens),
        "word_perplexity": math.exp(nats / words),
        "byte_perplexity": math.exp(nats / size),
        "bits_per_byte": nats / size / math.log(2),
        "token_perplexity": math.exp(nats / tokens),
    }


def _scored(scorer: Scorer, parts: Sequence[Judged], batch: int, progress: Progress) -> list[Likelihood]:
    """In the order of ``parts``; scored longest first, so that a batch's texts are about as long."""
    order = sorted(range(len(parts)), key=lambda index: -len(parts[index].ids))
    found: dict[int, Likelihood] = {}
    for group in _groups(order, batch):
        found.update(zip(group, scorer.score([parts[index] for index in group]), strict=True))
        progress("texts scored", len(found), len(parts))
    return [found[index] for index in range(len(parts))]


def _groups(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[at : at + size] for at in range(0, len(order), size))


def _first_best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _mean(name: str, values: Sequence[float]) -> Figures:
    """The mean and its standard error, ``sd / sqrt(n)`` with ``n - 1`` in the variance."""
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return {name: mean, f"{name}_stderr": math.sqrt(variance / count)}
