"""What a trained model is measured by."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_model.errors import DataError
from hope_model.evaluate.stream import read_losses
from hope_model.evaluate.tasks.figures import choice_figures, last_word_figures, text_figures
from hope_model.evaluate.tasks.files import read_articles, read_items
from hope_model.evaluate.tasks.formats import TASKS
from hope_model.evaluate.tasks.scorer import HopeScorer
from hope_model.experiment.settings import EvaluationSettings, sha256_of
from hope_model.hope import Hope
from hope_model.state import State
from hope_model.tokenizer import Tokenizer

STREAMS = ("gutenberg_darwin", "gutenberg_christie", "gutenberg_heldout_books")
WIKITEXT = "lm/wikitext2_valid.txt"
TASK_FILES = {
    "lambada": "lm/lambada_openai_test.jsonl",
    "piqa": "mc/piqa_valid.jsonl",
    "hellaswag": "mc/hellaswag_val.jsonl",
    "winogrande": "mc/winogrande_xl_dev.jsonl",
    "arc_easy": "mc/arc_easy_test.jsonl",
    "arc_challenge": "mc/arc_challenge_test.jsonl",
    "siqa": "mc/siqa_val.jsonl",
    "boolq": "mc/boolq_val.jsonl",
}
RUN = 512
"""Tokens that a model reads at a time."""
FIRST_BIN = 512
"""Tokens of a long stream's first stretch; each stretch is as long as all before it."""
BATCH = 16

Rows = Sequence[tuple[str, float, Tensor]]


def kit_files(kit: Path) -> dict[str, str]:
    """sha256 of every file of the evaluation kit that is read, by name.

    Raises:
        DataError: one of them is missing.
    """
    names = [f"streams/{name}.txt" for name in STREAMS] + [WIKITEXT, *TASK_FILES.values()]
    try:
        return {name: sha256_of(kit / name) for name in names}
    except OSError as error:
        raise DataError(f"{kit}: expected the files {', '.join(names)}: {error}") from error


@torch.no_grad()
def evaluate(
    model: Hope, tokenizer: Tokenizer, heldout: Rows, kit: Path, settings: EvaluationSettings
) -> dict[str, Any]:
    """All figures of a model, as JSON values; losses are nats per token."""
    long, state = long_streams(model, tokenizer, kit, settings)
    return {
        "heldout": heldout_loss(model, heldout),
        "streams": long,
        "levels": level_figures(model, state),
        "recall": recall(model, heldout, settings),
        "tasks": task_figures(model, tokenizer, kit, settings),
    }


def heldout_loss(model: Hope, rows: Rows) -> dict[str, Any]:
    """Of held-out text of the training sets, and the mean by their weights; state is carried along a row."""
    by_set = {}
    for name, _, tokens in rows:
        losses, _ = read_losses(model, tokens, model.initial_state(len(tokens)), RUN)
        by_set[name] = float(losses.mean())
    loss = sum(weight * by_set[name] for name, weight, _ in rows)
    return {"loss": loss, "sets": by_set, "tokens": sum(t[:, 1:].numel() for _, _, t in rows)}


def long_streams(
    model: Hope, tokenizer: Tokenizer, kit: Path, settings: EvaluationSettings
) -> tuple[dict[str, Any], State]:
    """Losses of held-out books by position: ``ends`` of the stretches and the mean loss of each, by book."""
    texts = [(kit / f"streams/{name}.txt").read_text(encoding="utf-8") for name in STREAMS]
    ids = [tokenizer.encode(text[: 8 * settings.stream]) for text in texts]
    for name, own in zip(STREAMS, ids, strict=True):
        if len(own) <= settings.stream:
            raise DataError(f"{name}: expected more than {settings.stream} tokens, found {len(own)}")
    tokens = torch.tensor([own[: settings.stream + 1] for own in ids])
    losses, state = read_losses(model, tokens, model.initial_state(len(ids)), RUN)
    ends = [min(FIRST_BIN, settings.stream)]
    while ends[-1] < settings.stream:
        ends.append(min(2 * ends[-1], settings.stream))
    parts = [(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    by_stream = {
        name: [float(row[start:end].mean()) for start, end in parts]
        for name, row in zip(STREAMS, losses, strict=True)
    }
    return {"ends": ends, "loss": float(losses.mean()), "streams": by_stream}, state


def level_figures(model: Hope, state: State) -> list[dict[str, Any]]:
    """Of every learning level after the long streams: how often it was written, and how far it has gone."""
    drift = model.drift(state)
    tokens = state["position"].double()
    return [
        {
            "name": level.name,
            "period": level.period,
            "frequency": float((state["writes"][:, index] / tokens).mean()),
            "drift": float(drift[level.name].mean()) if level.name in drift else None,
            "bytes": model.state_spec.level_bytes(level.name),
        }
        for index, level in enumerate(model.state_spec.learning_levels)
    ]


def recall(model: Hope, rows: Rows, settings: EvaluationSettings) -> dict[str, Any]:
    """Passages of held-out text that are read twice, other text between: nats per token that the second
    reading saves, by the gap in tokens.
    """
    pool = torch.cat([tokens[:, 1:].flatten() for _, _, tokens in rows])
    length = settings.recall_tokens
    longest = length + max(settings.recall_gaps)
    step = max(1, (len(pool) - longest) // settings.recall_rows)
    if len(pool) < longest + step * (settings.recall_rows - 1):
        raise DataError(f"recall: expected {longest} tokens of held-out text at least, found {len(pool)}")
    starts = [step * row for row in range(settings.recall_rows)]
    saved = {}
    for gap in settings.recall_gaps:
        parts = [torch.cat((pool[s : s + length + gap], pool[s : s + length])) for s in starts]
        losses, _ = read_losses(model, torch.stack(parts), model.initial_state(len(parts)), RUN)
        # Of both readings the same tokens, the third to the last: what comes before them is in the passage.
        first, second = losses[:, 1 : length - 1], losses[:, length + gap + 1 :]
        saved[str(gap)] = float(first.mean() - second.mean())
    return {"tokens": length, "saved": saved}


def task_figures(
    model: Hope, tokenizer: Tokenizer, kit: Path, settings: EvaluationSettings
) -> dict[str, Mapping[str, float]]:
    """Benchmarks as ``hope eval task`` scores them, the first rows of each."""
    scorer = HopeScorer(model, tokenizer)
    articles = read_articles(kit / WIKITEXT, settings.articles)
    wikitext, _ = text_figures(scorer, articles, window=None, batch=4)
    found: dict[str, Mapping[str, float]] = {"wikitext": wikitext}
    for name, count in settings.rows.items():
        items = read_items(kit / TASK_FILES[name], TASKS[name], count)
        if name == "lambada":
            found[name], _ = last_word_figures(scorer, items, batch=BATCH)
        else:
            found[name], _ = choice_figures(scorer, TASKS[name], items, batch=BATCH)
    for name, figures in found.items():
        if not all(math.isfinite(value) for value in figures.values()):
            raise DataError(f"{name}: expected finite figures, found {dict(figures)}")
    return found
