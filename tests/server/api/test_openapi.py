"""The API's description: every body has examples, and each is accepted."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from hope_client import wire
from hope_server.api.examples import EXAMPLES

ALL = [(model, name) for model, examples in EXAMPLES.items() for name in examples]


@pytest.mark.parametrize(("model", "name"), ALL, ids=lambda each: getattr(each, "__name__", each))
def test_an_example_is_accepted(model: type[wire.Request], name: str) -> None:
    model.model_validate(EXAMPLES[model][name])


def test_every_body_of_the_description_has_one(app: FastAPI) -> None:
    bodies: dict[str, Any] = {
        f"{method} {path}": operation["requestBody"]["content"]["application/json"]
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    assert len(bodies) >= 11
    assert [route for route, body in bodies.items() if not body.get("examples")] == []


def test_every_answer_has_a_schema(app: FastAPI) -> None:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            if path != "/metrics":  # which is no JSON
                assert operation["responses"]["200"]["content"]["application/json"]["schema"], (method, path)
