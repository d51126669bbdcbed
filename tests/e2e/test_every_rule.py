"""A server of each rule over HTTP: the same tokens alone, streamed in a crowd, and after a kill in an answer
or between two; a rule is trained, exported and served by the commands alone.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from hope_client import Client, HopeClientError, Stream
from hope_client.wire import Completion
from hope_model.checkpoint import load_checkpoint, resolve, save_checkpoint
from hope_model.config import HopeConfig
from hope_model.hope import Hope
from hope_model.rules import RULES

SHORT = ("hope", "rwkv7")
"""The rest is served so in the long form; the engine's tests have every rule."""
TOKENS = 30
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Stands for the bytes of a character that was not whole yet."""


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


def asked(number: int, length: int) -> dict[str, Any]:
    """A turn that is sampled with a fixed seed."""
    prompt = [(13 * i + 31 * number) % 8000 + 100 for i in range(length)]
    return {"prompt": prompt, "temperature": 1.0, "seed": number, "ignore_eos": True}


def turn(client: Client, session: str, number: int, length: int, tokens: int = TOKENS) -> str:
    """The text of a whole answer."""
    answer: Completion = client.completions(session_id=session, max_tokens=tokens, **asked(number, length))
    return answer.choices[0].text


def streamed(client: Client, session: str, number: int, length: int) -> str:
    """The same, as it comes."""
    stream: Stream[Completion] = client.completions(
        session_id=session, max_tokens=TOKENS, stream=True, **asked(number, length)
    )
    return "".join(stream.text())


def killed_in_an_answer(server: Any, client: Client, session: str, number: int, length: int) -> str:
    """What a client was sent until its server was killed."""
    stream: Stream[Completion] = client.completions(
        session_id=session, max_tokens=4096, stream=True, **asked(number, length)
    )
    pieces = stream.text()
    sent = [next(pieces) for _ in range(4)]
    server.kill()
    with pytest.raises(HopeClientError):
        sent.extend(pieces)
    return "".join(sent)


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
        found = [[text] for text in crowd.map(lambda one: streamed(client, one, *turns[0]), sessions)]
        cut = client.sessions.fork(sessions[0]).id
        sent = killed_in_an_answer(first, client, cut, *turns[1])
    with start_server(*flags).client() as client, ThreadPoolExecutor(4) as crowd:
        for later in turns[1:]:
            texts = crowd.map(lambda one, later=later: streamed(client, one, *later), sessions)
            for own, text in zip(found, texts, strict=True):
                own.append(text)
        assert found == [expected] * 4
        assert journal(client, sessions[0]) == journal(client, alone)
        fork = client.sessions.fork(sessions[0]).id
        assert turn(client, fork, 3, 9) == turn(client, alone, 3, 9)
        twin = client.sessions.fork(alone, seq=turns[0][1] + TOKENS).id
        tokens = len(journal(client, cut)) - turns[0][1] - TOKENS - turns[1][1]
        assert turn(client, twin, *turns[1], tokens=tokens).startswith(sent.rstrip(REPLACEMENT))
        assert turn(client, cut, *turns[2]) == turn(client, twin, *turns[2])
        assert journal(client, cut) == journal(client, twin)
        for session in (alone, sessions[0], fork, cut):
            assert client.sessions.verify(session).equal


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
