"""A server of each rule over HTTP: the same tokens alone, in a crowd and across a kill; a rule is trained,
exported and served by the commands alone.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from hope_client import Client
from hope_client.wire import Completion
from hope_model.checkpoint import load_checkpoint, resolve, save_checkpoint
from hope_model.config import HopeConfig
from hope_model.hope import Hope
from hope_model.rules import RULES

SHORT = ("rwkv7",)
"""The rest is served so in the long form; the engine's tests have every rule."""


@pytest.fixture(
    params=[pytest.param(name, marks=[] if name in SHORT else pytest.mark.slow) for name in RULES]
)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An untrained model that knows the shipped vocabulary."""
    _, tokenizer = load_checkpoint(resolve("hope-tiny"))
    config = HopeConfig(
        f"tiny-{request.param}",
        width=32,
        layers=2,
        heads=2,
        mlp_width=32,
        rule=request.param,
        chunk=16,
        levels=(),
        block=64,
    )
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "model", Hope(config), tokenizer, dtype=torch.bfloat16)
    return tmp_path / "model"


def turn(client: Client, session: str, number: int, length: int) -> str:
    """The text of a sampled turn with a fixed seed."""
    prompt = [(13 * i + 31 * number) % 8000 + 100 for i in range(length)]
    answer: Completion = client.completions(
        prompt, session_id=session, max_tokens=30, temperature=1.0, seed=number, ignore_eos=True
    )
    return answer.choices[0].text


def test_the_same_tokens_alone_in_a_crowd_and_across_a_kill(
    checkpoint: Path, start_server: Any, journal: Any
) -> None:
    flags = ("--model", str(checkpoint))
    turns = [(0, 150), (1, 33), (2, 5)]
    first = start_server(*flags)
    with first.client() as client, ThreadPoolExecutor(4) as crowd:
        alone = client.sessions.create().id
        expected = [turn(client, alone, *one) for one in turns]
        sessions = [client.sessions.create().id for _ in range(4)]
        found = [[text] for text in crowd.map(lambda one: turn(client, one, *turns[0]), sessions)]
    first.kill()
    with start_server(*flags).client() as client, ThreadPoolExecutor(4) as crowd:
        for later in turns[1:]:
            texts = crowd.map(lambda one, later=later: turn(client, one, *later), sessions)
            for own, text in zip(found, texts, strict=True):
                own.append(text)
        assert found == [expected] * 4
        assert journal(client, sessions[0]) == journal(client, alone)
        fork = client.sessions.fork(sessions[0]).id
        assert turn(client, fork, 3, 9) == turn(client, alone, 3, 9)


def test_a_rule_is_trained_and_served_by_commands(tmp_path: Path, start_server: Any) -> None:
    (tmp_path / "text.txt").write_text("It was a bright day in April. " * 4000, encoding="utf-8")
    command = [
        "train",
        "--data",
        str(tmp_path),
        "--run",
        str(tmp_path / "run"),
        "--export",
        str(tmp_path / "out"),
    ]
    size = ["--model", "hope-3m", "--rule", "hope", "--levels", "none", "--tokens", "256"]
    shape = ["--rows", "1", "--window", "128", "--precision", "float32", "--threads", "1"]
    tokenizer = ["--tokenizer", str(resolve("hope-tiny") / "tokenizer.json")]
    done = subprocess.run(
        [sys.executable, "-m", "hope_server", *command, *size, *shape, *tokenizer],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with start_server("--model", str(tmp_path / "out")).client() as client:
        session = client.sessions.create().id
        assert turn(client, session, 0, 20)
        assert [level.name for level in client.sessions.levels(session).levels] == [
            "phi",
            "projections",
            "slow",
        ]
