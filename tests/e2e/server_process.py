"""A real `hope serve` process with the shipped checkpoint and its own embedded Valkey."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from hope_client import Client

STOP_S = 60


class ServerProcess:
    """`hope serve` as a child process on a free port of loopback; its log goes to a file beside its data."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        # One thread: beside a busy neighbour, threads that wait for each other come to a stand.
        common = ["--model", "hope-tiny", "--port", "0", "--data-dir", str(data_dir), "--threads", "1"]
        self._log = data_dir.with_suffix(".log")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hope_server", "serve", *common, *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.search(r"ready at (http://\S+) \(slow weights sha256 ([0-9a-f]{64})\)", said)
        assert found, f"expected the server to say that it is ready, found {said!r} and the log {self.log()}"
        self.url, self.slow_weights_sha256 = found.groups()

    def client(self) -> Client:
        return Client(base_url=self.url, timeout=300)

    def log(self) -> str:
        """What the servers on this data directory have logged so far."""
        return self._log.read_text()

    def terminate(self) -> None:
        """SIGTERM: the server drains, then ends."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        status = self.process.wait(STOP_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def stop(self) -> int:
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        self.process.kill()
        self.wait()


def environment() -> dict[str, str]:
    """This process's, without settings of a server."""
    return {name: text for name, text in os.environ.items() if not name.startswith(("HOPE_", "REDIS_"))}
