"""lm-eval's `local-completions` with its own tasks on local files: it finds what `hope eval task` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.server_process import ServerProcess
from tests.real_clients.benchmarks import BENCHMARKS
from tests.real_clients.comparison import Found, furthest, hope_eval, lm_eval, write_files

from hope_model.checkpoint import resolve

pytestmark = pytest.mark.clients

MODEL = "hope-tiny"
SHORT = {"rows": 4, "articles": 2, "row_chars": 1000, "article_chars": 2800}
MAX_LENGTH = 514
"""A row is never cut; an article is read in two windows."""
NEAR = 1e-4
"""Nats."""


class Three(NamedTuple):
    """What was found with lm-eval, in this process and with `--url`."""

    theirs: dict[str, Found]
    own: dict[str, Found]
    served: dict[str, Found]


@pytest.fixture(scope="module")
def found(
    server: ServerProcess, kit: Path, offline: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Three:
    files = write_files(kit, tmp_path_factory.mktemp("rows") / "files", list(BENCHMARKS), **SHORT)
    theirs = lm_eval(files, server.url, offline, model=MODEL, max_length=MAX_LENGTH, num_concurrent=4)
    own = hope_eval(files, MODEL, window=MAX_LENGTH - 2)
    return Three(theirs, own, hope_eval(files, MODEL, window=MAX_LENGTH - 2, url=server.url))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_hope_eval_finds_what_lm_eval_finds(found: Three, name: str) -> None:
    assert_same(found.own[name], found.theirs[name])
    assert_same(found.served[name], found.theirs[name])


def assert_same(found: Found, theirs: Found) -> None:
    """Every log-likelihood, and every figure that lm-eval has but the one that it draws lots for."""
    assert furthest(found, theirs) < NEAR
    figures = {name: value for name, value in theirs.figures.items() if isinstance(value, float)}
    figures.pop("perplexity_stderr", None)
    assert figures
    assert {name: found.figures[name] for name in figures} == pytest.approx(figures, rel=NEAR)


def test_an_article_is_read_in_windows(found: Three) -> None:
    """Else the windows of lm-eval are not compared."""
    assert found.own["wikitext"].figures["tokens"] > SHORT["articles"] * (MAX_LENGTH - 2)


def test_a_local_tokenizer_gives_the_same(
    server: ServerProcess, kit: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    """As with a server that has no `/tokenize`; one request after the other."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((resolve(MODEL) / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )
    names = ["wikitext", "lambada", "arc_easy"]
    files = write_files(kit, tmp_path / "files", names, **SHORT)
    given = {
        "model": MODEL,
        "max_length": MAX_LENGTH,
        "tokenizer": folder,
        "tokenizer_backend": "huggingface",
    }
    theirs = lm_eval(files, server.url, offline, batch=2, **given)
    own = hope_eval(files, MODEL, window=MAX_LENGTH - 2)
    for name in names:
        assert_same(own[name], theirs[name])
