"""Real servers, one for all tests or a test's own, and what tests read of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.server_process import ServerProcess

from hope_client import Client

StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers on one data directory; whatever still runs at the end is killed."""
    started: list[ServerProcess] = []

    def start(*flags: str) -> ServerProcess:
        started.append(ServerProcess(tmp_path / "data", *flags))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that need nothing of their own; its graceful stop must exit with 0."""
    process = ServerProcess(tmp_path_factory.mktemp("shared") / "data")
    try:
        yield process
        assert process.stop() == 0
    finally:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def journal() -> Callable[[Client, str], list[int]]:
    """Reads every token of a session's journal, page by page."""

    def read(client: Client, session: str) -> list[int]:
        tokens: list[int] = []
        after, head = 0, 1
        while after < head:
            page = client.sessions.events(session, after=after, limit=1000)
            tokens += [event.token for event in page.events if event.token is not None]
            after, head = page.events[-1].seq if page.events else page.head, page.head
        return tokens

    return read
