"""guidellm measures a running server over loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.server_process import ServerProcess

pytestmark = pytest.mark.clients

REQUESTS, ON_THE_WAY = 6, 2
"""How many it sends, and how many of them it may leave uncounted: it ends when it has sent the last one, and
on a busy machine that was once not among its results.
"""


@pytest.mark.parametrize("profile", ["kind=synchronous", "kind=concurrent,streams=2"])
def test_every_request_of_a_benchmark_succeeds(
    server: ServerProcess, offline: dict[str, str], tmp_path: Path, profile: str
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Tell me of town {n}."}) + "\n" for n in range(8)))
    out = tmp_path / "out.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "guidellm", "run", "--backend", f"kind=openai_http,target={server.url}"),
            *("--profile", profile, "--constraint", f"kind=max_requests,count={REQUESTS}"),
            *("--data", f"kind=json_file,path={prompts}", "--output", f"kind=json,path={out}"),
            "--disable-console",
        ],
        cwd=tmp_path,
        env=offline,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    (benchmark,) = json.loads(out.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["errored"] == 0, totals
    assert totals["successful"] >= REQUESTS - ON_THE_WAY, totals
