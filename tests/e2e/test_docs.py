"""Commands that a reader is told to run, run: every block of the documents that says ``runnable``."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.server_process import ServerProcess, environment

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(sh|python) runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOLD = "localhost:8000"
"""The address that documents use."""


class Block(NamedTuple):
    where: str
    language: str
    text: str


def blocks() -> list[Block]:
    files = [ROOT / "README.md", *ROOT.glob("*/*.md"), *ROOT.glob("*/docs/*.md")]
    return [
        Block(f"{file.relative_to(ROOT)}-{number}", *found)
        for file in sorted(files)
        for number, found in enumerate(FENCE.findall(file.read_text(encoding="utf-8")), 1)
    ]


def test_the_readmes_use_is_among_them() -> None:
    languages = {block.language for block in blocks() if block.where.startswith("README.md")}
    assert languages == {"sh", "python"}


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.where)
def test_a_runnable_block_runs(block: Block, server: ServerProcess, tmp_path: Path) -> None:
    """In a folder of its own, with `hope` where the document says it is."""
    hope = tmp_path / ".venv/bin/hope"
    hope.parent.mkdir(parents=True)
    hope.write_text(f'#!/bin/sh\nexec {sys.executable} -m hope_server "$@"\n')
    hope.chmod(0o755)
    address = server.url.removeprefix("http://")
    text = block.text.replace(TOLD, address).replace("Client()", f'Client("{server.url}")')
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    path = f"{hope.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, text],
        cwd=tmp_path,
        env={**environment(), "HOPE_URL": server.url, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), done.stderr
    assert '"error"' not in done.stdout
