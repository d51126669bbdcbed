"""Tiny runs, and results as they would be after some of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.experiment.tiny import SETTINGS, make_places, shrink

from hope_model.experiment.plan import ALL
from hope_model.experiment.results import Result
from hope_model.experiment.runner import Places
from hope_model.experiment.settings import fingerprint
from hope_model.train import trainer


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of the plan is a tiny model; the trainer draws no picture of each."""
    shrink(monkeypatch.setitem)
    monkeypatch.setattr(trainer, "plot_loss", lambda directory: None)


@pytest.fixture
def places(tiny: None, tmp_path: Path) -> Places:
    """A corpus and a kit; nothing has been run."""
    torch.manual_seed(0)
    return make_places(tmp_path)


def made_result(name: str, loss: float, changes: Mapping[str, Any] | None = None) -> Result:
    """A result as the runner writes it, but for ``changes``."""
    run = ALL[name]
    accuracy = {"rows": 2.0, "acc": 0.5, "acc_stderr": 0.1, "acc_norm": 0.25, "acc_norm_stderr": 0.1}
    tasks: dict[str, Any] = {task: dict(accuracy) for task in SETTINGS.evaluation.rows}
    tasks["lambada"] |= {"perplexity": 1234.5, "perplexity_stderr": 10.0}
    tasks["wikitext"] = {"articles": 1.0, "tokens": 9.0, "word_perplexity": 4321.5}
    levels = [{"name": "phi", "period": 1, "frequency": 1.0, "drift": 0.5, "bytes": 2048}]
    if run.levels == "config":
        levels.append({"name": "cms-8", "period": 8, "frequency": 0.125, "drift": 0.25, "bytes": 1024})
    return {
        "run": run.to_dict(),
        "fingerprint": fingerprint(SETTINGS, "0" * 64, {"a.jsonl.zst": "1" * 64}),
        "learning_rate": 0.004,
        "tuning": {"0.001": loss + 2, "0.004": loss + 1},
        "parameters": run.parameters,
        "mlp_width": 8,
        "state_bytes": 3072,
        "loss": [[80, loss + 3], [160, loss + 0.5]],
        "evaluation": {
            "heldout": {"loss": loss, "sets": {"gutenberg_adult": loss}, "tokens": 100},
            "streams": {"ends": [40, 80, 160], "loss": loss, "streams": {"a": [loss, loss, loss + 0.25]}},
            "levels": levels,
            "recall": {"tokens": 12, "saved": {"0": 1.5, "20": 0.75}},
            "tasks": tasks,
        },
        "seconds": {"training": 2.0, "training_cpu": 1.0, "evaluation_cpu": 1.0},
        "tokens_per_cpu_s": 1000.0,
        "device": "cpu",
        "machine": "a machine",
    } | dict(changes or {})
