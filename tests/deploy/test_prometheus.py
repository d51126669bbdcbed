"""Debian's Prometheus reads our files, and every query of ours shows something of a server under load."""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.prometheus import WINDOW, Prometheus, running
from tests.e2e.server_process import ServerProcess

from hope_client import Client, HopeClientError
from hope_server.tenants.key_file import KeyFile

pytestmark = pytest.mark.prometheus
Query = Any  # its class lives in conftest, which tests cannot import

SELECTOR = re.compile(r"(?<![\w:])(?:(?:hope|instance|model|level):[\w:]+|process_\w+|up)(?:\{[^}]*\})?")
SCRAPES = 6
TALE = "Once upon a time there was a little girl who had a red ball. " * 22


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_their_cases(deploy: Path) -> None:
    promtool("check", "rules", *sorted((deploy / "prometheus/rules").glob("*.yml")))
    promtool("test", "rules", *sorted((deploy / "prometheus/tests").glob("*.yml")))


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_configurations(deploy: Path, name: str) -> None:
    promtool("check", "config", "--syntax-only", deploy / "prometheus" / name)


class Load:
    """What clients do to a server: turns, forks, rollbacks, mistakes; and the server is killed in between."""

    def __init__(self, folder: Path) -> None:
        keys = KeyFile(folder / "keys")
        self.credentials = folder / "operator.key"
        self.credentials.write_text(keys.create(None)[1])
        self._key = keys.create("default")[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._folder = folder
        self._session = ""
        self.server = self._start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._port}"

    def restart(self) -> None:
        """As after a crash."""
        self.server.kill()
        self.server = self._start()

    def turn(self) -> None:
        """One of a session, and one of none; the first read past a boundary."""
        with self._client() as client:
            if not self._session:
                self._session = client.sessions.create().id
                client.completions(TALE, session_id=self._session, max_tokens=2)
            client.chat("Tell me more.", session_id=self._session, max_tokens=4)
            with client.chat("Hello.", max_tokens=4, stream=True) as stream:
                assert "".join(stream.text()) is not None

    def more(self) -> None:
        """What is done to sessions, and what is refused."""
        with self._client() as client:
            copy = client.sessions.fork(self._session)
            client.sessions.rollback(copy.id, seq=3)
            client.sessions.delete(copy.id)
            with pytest.raises(HopeClientError):
                client.sessions.get("0" * 32)

    def _client(self) -> Client:
        return Client(base_url=self.server.url, api_key=self._key, timeout=300)

    def _start(self) -> ServerProcess:
        folder = self._folder
        return ServerProcess(folder / "data", "--port", str(self._port), "--keys-dir", str(folder / "keys"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float, float]]:
    """A Prometheus that has watched a server under load, from when to when."""
    folder = tmp_path_factory.mktemp("watched")
    load = Load(folder)
    try:
        with running(folder, load.target, load.credentials) as prometheus:
            begin = time.time()
            seen = 0
            for act in (load.more, load.restart, load.more):
                seen += SCRAPES
                while prometheus.scrapes() < seen:
                    load.turn()
                act()
            while prometheus.scrapes() < seen + SCRAPES:
                load.turn()
            yield prometheus, begin, time.time()
        assert load.server.stop() == 0
    finally:
        if load.server.process.poll() is None:
            load.server.kill()


def test_no_panel_is_empty(watched: tuple[Prometheus, float, float], panel_queries: list[Query]) -> None:
    prometheus, begin, end = watched
    empty = []
    for query in panel_queries:
        expr = query.expr
        for variable, text in WINDOW.items():
            expr = expr.replace(variable, text)
        if not prometheus.over(expr, begin, end):
            empty.append(f"{query.where}: {expr}")
    assert not empty, "\n".join(empty)


def test_every_rule_is_evaluated(
    watched: tuple[Prometheus, float, float], rules: dict[str, dict[str, Any]]
) -> None:
    prometheus, _, _ = watched
    found = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in found} == set(rules)
    for rule in found:
        assert (rule["health"], rule.get("lastError")) == ("ok", None), rule["name"]


def test_every_rule_asks_for_what_is_there(
    watched: tuple[Prometheus, float, float], rule_queries: list[Query]
) -> None:
    """An alert on a series or a label that does not exist never fires."""
    prometheus, begin, end = watched
    for query in rule_queries:
        prometheus.now(query.expr)
        selectors = SELECTOR.findall(query.expr)
        assert selectors, query.where
        for selector in selectors:
            assert prometheus.over(selector, begin, end), f"{query.where}: {selector}"


def test_no_alert_fires_on_a_server_that_is_well(watched: tuple[Prometheus, float, float]) -> None:
    prometheus, _, _ = watched
    assert [
        alert["labels"] for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"
    ] == []
