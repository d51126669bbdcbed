"""One real server for programs of others, which are used as they are installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.server_process import ServerProcess

KIT = Path(__file__).parents[3] / "shared" / "kit"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("clients") / "data")
    try:
        yield process
        assert process.stop() == 0
    finally:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of local evaluation files."""
    assert KIT.is_dir(), f"expected evaluation files in {KIT}"
    return KIT


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which nobody asks a host for anything but what the test names."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("hugging-face")),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OPENAI_API_KEY": "none",
    }
