"""Grafana dashboards of a Hope server, as a typed description; the JSON beside them is made from it."""

from hope_dashboards import learning, service, store
from hope_dashboards.board import as_json

DASHBOARDS = {
    "service.json": service.dashboard,
    "learning.json": learning.dashboard,
    "store.json": store.dashboard,
}


def render() -> dict[str, str]:
    """The text of each dashboard, by its file's name."""
    return {name: as_json(make()) for name, make in DASHBOARDS.items()}
