"""The API's description: every body has examples, and each is accepted."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from hope_client import wire
from hope_server.api.examples import EXAMPLES

JSON = "application/json"
ALL = [(model, name) for model, examples in EXAMPLES.items() for name in examples]


@pytest.mark.parametrize(("model", "name"), ALL, ids=lambda each: getattr(each, "__name__", each))
def test_an_example_is_accepted(model: type[wire.Request], name: str) -> None:
    model.model_validate(EXAMPLES[model][name])


def test_every_body_of_the_description_has_one(app: FastAPI) -> None:
    bodies: dict[str, Any] = {
        f"{method} {path}": operation["requestBody"]["content"][JSON]
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if JSON in operation.get("requestBody", {}).get("content", {})
    }
    assert len(bodies) >= 11
    assert [route for route, body in bodies.items() if not body.get("examples")] == []


def test_every_json_answer_has_a_schema(app: FastAPI) -> None:
    others = set()
    for path, methods in app.openapi()["paths"].items():
        for operation in methods.values():
            content = next(iter(operation["responses"].values())).get("content", {})
            if JSON not in content:
                others.add(path)
            else:
                assert content[JSON]["schema"], path
    assert others <= {"/metrics", "/v1/sessions/{session_id}/export"}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_an_answer_may_be_a_stream(app: FastAPI, path: str) -> None:
    assert "text/event-stream" in app.openapi()["paths"][path]["post"]["responses"]["200"]["content"]
