"""Redis servers of an operator's own, for all tests of the server."""

import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from hope_server.sessions.binary import find_binary

StartValkey = Callable[..., str]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def start_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartValkey]:
    """Starts an operator's own server on TCP with the given options; returns its URL."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> str:
        port = _free_port()
        command = [str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
        directory = tmp_path_factory.mktemp("external")
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        running.append(process)
        assert process.stdout is not None
        assert any(b"Ready to accept connections" in line for line in process.stdout)
        return f"redis://127.0.0.1:{port}"

    yield start
    for process in running:
        process.kill()
        process.communicate()
