"""GET /openapi.json: bodies are read by hand (bounded, strict), so their schemas are put in by hand too."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hope_client.wire import (
    IDEMPOTENCY_HEADER,
    IDEMPOTENCY_KEY_PATTERN,
    OCTET_STREAM,
    SESSION_HEADER,
    SESSION_ID_PATTERN,
    ChatCompletionRequest,
    CompletionRequest,
    ConversationCreate,
    ConversationItemsCreate,
    ConversationUpdate,
    DetokenizeRequest,
    ErrorBody,
    ResponseRequest,
    SessionCreate,
    SessionFork,
    SessionRollback,
    SessionUpdate,
    TokenizeRequest,
)
from hope_server.api.examples import answer_examples, examples_of
from hope_server.api.summaries import SUMMARIES

REF = "#/components/schemas/{model}"
ABOUT = (
    "An X-Request-ID of 1 to 128 letters, digits, dots, colons, dashes or underscores comes back in the "
    "answer and stands in the server's log; a request without one gets one. Errors have OpenAI's shape and a "
    "stable code. A turn with an Idempotency-Key is learned once, however often it is sent."
)
_BODIES: tuple[type[BaseModel], ...] = (
    ChatCompletionRequest,
    CompletionRequest,
    ConversationCreate,
    ConversationItemsCreate,
    ConversationUpdate,
    SessionCreate,
    SessionFork,
    SessionRollback,
    SessionUpdate,
    TokenizeRequest,
    DetokenizeRequest,
    ResponseRequest,
    ErrorBody,
)
EVENT_STREAM = "text/event-stream"
JSON = "application/json"
_OCTETS = {OCTET_STREAM: {"schema": {"type": "string", "format": "binary"}}}


def accepts(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """A route's `openapi_extra`: its body is `model`, with its examples."""
    schema = {"$ref": REF.format(model=model.__name__)}
    content: dict[str, Any] = {"schema": schema}
    if examples := examples_of(model):
        content["examples"] = examples
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def accepts_octets() -> dict[str, Any]:
    """A route's `openapi_extra`: its body is a file."""
    return {"requestBody": {"required": True, "content": _OCTETS}}


def answers_octets() -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: its answer is a file."""
    return {200: {"description": "The file", "content": _OCTETS}}


def answers_stream() -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: its answer comes whole, or as events if `stream` asks for them."""
    return {200: {"description": "The answer, whole or as a stream of events", "content": {EVENT_STREAM: {}}}}


def accepts_turn(model: type[BaseModel]) -> dict[str, Any]:
    """As `accepts`, with the headers that name a turn's session and its idempotency key."""
    headers = ((SESSION_HEADER, SESSION_ID_PATTERN), (IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY_PATTERN))
    parameters = [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string", "pattern": pattern}}
        for name, pattern in headers
    ]
    return {**accepts(model), "parameters": parameters}


def describe(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI document; every answer of status 400 or above is an ErrorBody."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, definitions = models_json_schema([(model, "validation") for model in _BODIES], ref_template=REF)
    document["components"]["schemas"].update(definitions["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):  # the framework's own, which no answer has
        document["components"]["schemas"].pop(unused, None)
    document["info"]["description"] = ABOUT
    error = {"$ref": REF.format(model=ErrorBody.__name__)}
    answer = {"description": "Error", "content": {"application/json": {"schema": error}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["summary"] = SUMMARIES.get((method, path), operation["summary"])
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = deepcopy(answer)
            for answered in operation["responses"].values():
                _exemplify(path, answered.get("content", {}))
    app.openapi_schema = document
    return document


def _exemplify(path: str, content: dict[str, Any]) -> None:
    """An example of each answer that has one: JSON's by its schema, text by its path."""
    for kind, answer in content.items():
        schema = answer.get("schema", {})
        reference = schema.get("oneOf", [schema])[0].get("$ref", "")
        by_schema, by_path = answer_examples()
        found = by_schema.get(reference.rpartition("/")[2]) if kind == JSON else by_path.get(path)
        if found is not None:
            answer["example"] = found
