"""`hope bench serve` on a running server: as clients of its sessions, and as of any OpenAI-compatible one."""

import json
from pathlib import Path
from typing import Any

import pytest

from hope_client import Client
from hope_server.cli import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["--endpoint", "chat", "--concurrency", "2", "--turns", "2", "--plot", "load.png"],
        ["--endpoint", "completions", "--rate", "40", "--turns", "0"],
    ],
    ids=["sessions", "plain"],
)
def test_load_on_a_server(
    server: Any, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {session.id for session in client.sessions.list(limit=1000).data}
    short = [
        "--requests",
        "4",
        "--warm-up",
        "1",
        "--prompt-words",
        "3-5",
        "--answer-tokens",
        "6",
        "--json",
        "f",
    ]
    assert main(["bench", "serve", "--url", server.url, *short, *arguments]) == 0
    found = json.loads(Path("f").read_text())
    assert found["model"] == "hope-tiny"
    assert found["requests"] == {"measured": 4, "warm_up": 1, "whole": 4}
    assert found["errors"] == {}
    assert found["output_tokens"] == 4 * 6
    assert found["latency"]["ttft_s"]["p50"] > 0
    assert Path("load.png").exists() == ("--plot" in arguments)
    assert {session.id for session in client.sessions.list(limit=1000).data} == before


def test_a_server_that_refuses_everything_gives_a_status_and_its_code(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--requests", "2", "--warm-up", "0", "--model", "another", "--json", str(tmp_path / "f")]
    assert main(["bench", "serve", "--url", server.url, *short]) == 1
    assert json.loads((tmp_path / "f").read_text())["errors"] == {"model_not_found": 2}
    assert "error model_not_found: 2" in capsys.readouterr().out
