"""A tiny experiment: a model of seconds, a corpus with every set of the mixture, an evaluation kit."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import zstandard
from tests.model.corpus import CONFIG, SYLLABLES

from hope_model.config import CONFIGS
from hope_model.experiment.measure import STREAMS, TASK_FILES, WIKITEXT
from hope_model.experiment.plan import ALL
from hope_model.experiment.runner import Experiment, Places
from hope_model.experiment.settings import EvaluationSettings, ExperimentSettings
from hope_model.tokenizer import Tokenizer
from hope_model.train.mixture import builtin_mixture

PARAMETERS = 40_000
SETTINGS = ExperimentSettings(
    tokens=640,
    rows=2,
    window=40,
    warmup=2,
    rates=(1e-3, 4e-3),
    tuning_tokens=320,
    tuning_warmup=1,
    precision="float32",
    heldout_share=2,
    save_every=4,
    evaluation=EvaluationSettings(
        heldout_rows=12,
        heldout_tokens=48,
        stream=160,
        recall_rows=3,
        recall_tokens=12,
        recall_gaps=(0, 20),
        rows=dict.fromkeys(TASK_FILES, 2),
        articles=1,
    ),
)


def shrink(set_item: Callable[[dict[str, object], str, object], None]) -> None:
    """Make every run of the plan a tiny model; ``set_item`` as monkeypatch has it."""
    for size in ("small", "base", "large"):
        set_item(CONFIGS, f"experiment-{size}", CONFIG)  # type: ignore[arg-type]
    for name, run in list(ALL.items()):
        set_item(ALL, name, replace(run, parameters=PARAMETERS))  # type: ignore[arg-type]


def words(count: int, seed: object) -> str:
    rng = random.Random(str(seed))
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(count))


def write_corpus(folder: Path) -> None:
    """Every set of the core mixture, 24 documents each."""
    folder.mkdir()
    for one in builtin_mixture("core").sets:
        rows = []
        for number in range(24):
            text = words(60, (one.name, number))
            if one.format == "dialogue":
                text = f"User: {text}\nAssistant: {words(20, number)}"
            rows.append(json.dumps({"text": text}))
        content = zstandard.compress("\n".join(rows).encode())
        (folder / one.glob.replace("*", "00")).write_bytes(content)


def write_kit(folder: Path) -> None:
    for name in ("streams", "lm", "mc"):
        (folder / name).mkdir(parents=True)
    for name in STREAMS:
        (folder / f"streams/{name}.txt").write_text(words(300, name))
    (folder / WIKITEXT).write_text(f" = Title = \n\n {words(30, 'wiki')} . \n")
    for task, name in TASK_FILES.items():
        rows = []
        for number in range(2):
            text, choices = words(5, (task, number)), [words(2, (task, number, at)) for at in range(3)]
            row: dict[str, object] = {"context": text, "choices": choices, "gold": 1}
            if task == "lambada":
                row = {"text": text}
            elif task == "winogrande":
                row = {"contexts": choices[:2], "continuation": text, "gold": 1}
            elif task == "boolq":
                row = {"context": f"Passage: {text}\nQuestion: {choices[0]}?", "gold": 1}
            elif task == "siqa":
                row["question"] = f"{choices[0]}?"
            rows.append(json.dumps(row))
        (folder / name).write_text("\n".join(rows) + "\n")


def make_places(folder: Path) -> Places:
    write_corpus(folder / "data")
    write_kit(folder / "kit")
    return Places(folder / "data", folder / "kit", folder / "work", folder / "results")


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train([words(400, "tokenizer")], CONFIG.vocab_size)


def opened(places: Places, settings: ExperimentSettings = SETTINGS) -> Experiment:
    return Experiment(places, settings, tiny_tokenizer(), say=lambda text: None)
