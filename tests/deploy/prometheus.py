"""A real Prometheus of Debian's, with the committed rules, on one server of this machine."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
INTERVAL_S = 1
WINDOW = {"$__rate_interval": "15s", "$model_name": ".*", "$instance": ".*"}
"""What Grafana puts in for its variables."""

Samples = list[dict[str, Any]]


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)

    def ask(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer; AssertionError with Prometheus' own words if the query is wrong."""
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def now(self, expr: str) -> Samples:
        """An instant query's result."""
        found: Samples = self.ask("query", query=expr)["result"]
        return found

    def over(self, expr: str, start: float, end: float) -> list[float]:
        """Every number of a range query's result; those that are not finite are left out."""
        found = self.ask("query_range", query=expr, start=start, end=end, step=INTERVAL_S)["result"]
        numbers = [float(value) for series in found for _, value in series["values"]]
        return [number for number in numbers if abs(number) < float("inf")]

    def scrapes(self) -> int:
        """How often the server answered a scrape."""
        found = self.now('sum_over_time(up{job="hope"}[1h])')
        return int(float(found[0]["value"][1])) if found else 0

    def close(self) -> None:
        self._http.close()


@contextmanager
def running(folder: Path, target: str, credentials: Path) -> Iterator[Prometheus]:
    """Prometheus with compose's configuration, but this target, these credentials and short intervals."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{INTERVAL_S}s", "evaluation_interval": f"{INTERVAL_S}s"}
    config["rule_files"] = [str(DEPLOY / "prometheus/rules/*.yml")]
    (scrape,) = (job for job in config["scrape_configs"] if job["job_name"] == "hope")
    scrape["static_configs"] = [{"targets": [target]}]
    scrape["authorization"]["credentials_file"] = str(credentials)
    config["scrape_configs"] = [scrape]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    command += ["--web.listen-address=127.0.0.1:0", "--log.format=json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        api = Prometheus(f"http://{_address(process)}")
        yield api
        api.close()
    finally:
        process.terminate()
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    """Where it listens, once it answers queries."""
    assert process.stderr is not None
    address, said = "", []
    for line in process.stderr:
        said.append(line)
        event = json.loads(line)
        if found := re.fullmatch(r"127\.0\.0\.1:\d+", event.get("address", "")):
            address = found.group()
        if event.get("msg") == "Server is ready to receive web requests.":
            return address
    raise AssertionError(f"expected Prometheus to start, found {''.join(said)}")
