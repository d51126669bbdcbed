"""The examples of the client's README, each run as it stands against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_it_runs(server: Any, example: str) -> None:
    placed = re.sub(r"\b((?:Async)?Client)\((?=\)|\w+=)", rf'\1("{server.url}", ', example)
    assert server.url in placed, "every example talks to a server"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", placed],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or "print" not in example
