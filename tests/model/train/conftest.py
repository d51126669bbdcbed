"""A tiny model, a tiny corpus, and short runs of the trainer on them."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.model.corpus import CONFIG, SYLLABLES

from hope_model.config import CONFIGS, HopeConfig
from hope_model.tokenizer import Tokenizer
from hope_model.train.log import TrainLog
from hope_model.train.mixture import Source, sources_of
from hope_model.train.settings import TrainSettings
from hope_model.train.trainer import train


@pytest.fixture(scope="module", autouse=True)
def config() -> Iterator[HopeConfig]:
    """The tiny configuration, known as "test"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, CONFIG.name, CONFIG)
        yield CONFIG


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny configuration for ``train_with_config.py``."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(CONFIG.to_dict()), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 books of about 1,000 tokens, and a mixture that reads them."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(1)
    with (folder / "books.jsonl").open("w", encoding="utf-8") as shard:
        for _ in range(40):
            words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(300)]
            shard.write(json.dumps({"text": " ".join(words)}) + "\n")
    books = {"name": "books", "glob": "books.jsonl", "weight": 1, "format": "book", "licence": "none"}
    (folder / "mixture.json").write_text(json.dumps({"sets": [books]}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def sources(corpus: Path) -> tuple[Source, ...]:
    return sources_of([corpus / "books.jsonl"], "book")


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> Tokenizer:
    lines = (corpus / "books.jsonl").read_text(encoding="utf-8").splitlines()
    return Tokenizer.train([json.loads(line)["text"] for line in lines], CONFIG.vocab_size)


@pytest.fixture(scope="session")
def settings() -> TrainSettings:
    """Six steps of 120 tokens; every window ends inside a period of the slower level."""
    return TrainSettings(
        model="test",
        tokens=6 * 120,
        rows=3,
        window=40,
        reset_probability=0.2,
        warmup=2,
        precision="float32",
        save_every=100,
    )


@pytest.fixture
def train_in(
    settings: TrainSettings, sources: tuple[Source, ...], tokenizer: Tokenizer
) -> Callable[..., None]:
    """Start or go on with the run in a folder; keyword arguments replace settings."""

    def run(directory: Path, **changes: Any) -> None:
        train(replace(settings, **changes), sources, tokenizer, directory)

    return run


@pytest.fixture
def stop_after(train_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``train_in`` with a SIGTERM that arrives during step number ``step``."""

    def run(directory: Path, step: int, **changes: Any) -> None:
        record = TrainLog.step

        def record_and_signal(log: TrainLog, number: int, **figures: float) -> None:
            record(log, number, **figures)
            if number == step:
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(TrainLog, "step", record_and_signal)
            with pytest.raises(KeyboardInterrupt):
                train_in(directory, **changes)

    return run


@pytest.fixture(scope="module")
def _finished(
    config: HopeConfig,
    settings: TrainSettings,
    sources: tuple[Source, ...],
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    directory = tmp_path_factory.mktemp("finished")
    train(settings, sources, tokenizer, directory)
    return directory


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a run that is done; its checkpoint is ``step-6``."""
    return Path(shutil.copytree(_finished, tmp_path / "finished"))
