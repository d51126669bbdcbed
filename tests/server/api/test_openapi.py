"""The API's description: every body has examples, and each is accepted."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI

from hope_client import wire
from hope_server.api.examples import EXAMPLES, answer_examples
from hope_server.api.summaries import SUMMARIES

JSON = "application/json"
OCTET_STREAM = "application/octet-stream"
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


def operations(app: FastAPI) -> dict[tuple[str, str], dict[str, Any]]:
    paths = app.openapi()["paths"]
    return {(method, path): operation for path, found in paths.items() for method, operation in found.items()}


def contents(app: FastAPI) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every body and answer: media type and content."""
    found = {}
    for (method, path), operation in operations(app).items():
        parts = {"body": operation.get("requestBody", {}), **operation["responses"]}
        for part, one in parts.items():
            for kind, content in one.get("content", {}).items():
                found[f"{method} {path} {part} {kind}"] = (kind, content)
    return found


def test_every_operation_says_what_it_is(app: FastAPI) -> None:
    assert set(operations(app)) == set(SUMMARIES)
    assert len(set(SUMMARIES.values())) == len(SUMMARIES)
    for where, operation in operations(app).items():
        assert operation["summary"] == SUMMARIES[where]
        assert operation["description"].endswith("."), where


def test_every_body_and_answer_has_an_example(app: FastAPI) -> None:
    for where, (kind, content) in contents(app).items():
        assert kind == OCTET_STREAM or content.get("examples") or "example" in content, where


def test_every_example_fits_its_schema(app: FastAPI) -> None:
    document, seen = app.openapi(), 0
    for where, (_, content) in contents(app).items():
        examples = [one["value"] for one in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        if "schema" not in content:
            assert all(isinstance(example, str) for example in examples), where
            continue
        validator = jsonschema.Draft202012Validator(
            {**content["schema"], "components": document["components"]}
        )
        for example in examples:
            assert [error.message for error in validator.iter_errors(example)] == [], where
            seen += 1
    assert seen > len(SUMMARIES)


def test_no_example_of_an_answer_is_left_over(app: FastAPI) -> None:
    by_schema, by_path = answer_examples()
    used = [content["example"] for _, content in contents(app).values() if "example" in content]
    assert [name for name, example in {**by_schema, **by_path}.items() if example not in used] == []
