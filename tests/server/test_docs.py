"""The reference of API and settings is what the sources say."""

import subprocess
import sys
from pathlib import Path

MAKE = Path(__file__).parents[2] / "server/docs/make.py"


def test_they_are_what_their_sources_make() -> None:
    done = subprocess.run([sys.executable, MAKE, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run {MAKE}: {done.stderr}"
