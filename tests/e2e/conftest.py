"""Real servers, one for all tests or a test's own, and what tests read of them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.e2e.server_process import ServerProcess
from tests.model.attention.tiny import level, memory_config
from tests.model.convert.builders import LAYERS, random_weights, tiny_backbone, write_folder
from tests.server.api.templates import SMOLLM2

from hope_client import Client
from hope_model.attention import calibrate as calibration
from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.calibrate import calibrate
from hope_model.attention.prompts import OPENINGS, QUESTIONS
from hope_model.convert.convert import convert
from hope_server.models import ask_in_template

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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hope convert` makes of a tiny random model that talks in ChatML."""
    root = tmp_path_factory.mktemp("attention")
    shapes = tensor_shapes(tiny_backbone())
    weights = {
        name: tensor * (1 if "norm" in name else shapes[name][-1] ** -0.5)
        for name, tensor in random_weights(shapes).items()
    }
    source = write_folder(root / "source", weights)
    (source / "chat_template.jinja").write_text(SMOLLM2)
    own = replace(level(first_layer=2), last_layer=LAYERS - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "OPENINGS", OPENINGS[:3])
        patch.setattr(calibration, "QUESTIONS", QUESTIONS[:8])
        patch.setattr(calibration, "ANSWER_TOKENS", 12)
        return convert(
            str(source),
            out=root / "tiny",
            calibrate=partial(calibrate, memory=memory_config(own)),
            chat=ask_in_template,
        ).path
