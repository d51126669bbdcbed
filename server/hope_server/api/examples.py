"""Examples for the API's description: of request bodies, each accepted as it stands, and of answers."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel

from hope_client.wire import (
    ChatCompletionRequest,
    CompletionRequest,
    ConversationCreate,
    ConversationItemsCreate,
    ConversationUpdate,
    DetokenizeRequest,
    ResponseRequest,
    SessionCreate,
    SessionFork,
    SessionRollback,
    SessionUpdate,
    TokenizeRequest,
)

_SESSION = "0123456789abcdef0123456789abcdef"
_WEATHER = {
    "name": "weather",
    "description": "The weather of a town.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
_BALL = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
_ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]

EXAMPLES: dict[type[BaseModel], dict[str, dict[str, Any]]] = {
    ChatCompletionRequest: {
        "A turn of a session": {
            "messages": [{"role": "user", "content": "My name is Ada."}],
            "session_id": _SESSION,
            "stream": True,
        },
        "A question that teaches nothing": {
            "messages": [{"role": "user", "content": "What is my name?"}],
            "session_id": _SESSION,
            "learn": "off",
        },
        "Tools": {"messages": _ASK, "tools": [{"type": "function", "function": _WEATHER}]},
        "An answer of a schema": {
            "messages": [{"role": "user", "content": "A ball."}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "ball", "schema": _BALL}},
        },
    },
    CompletionRequest: {
        "Continue a text": {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0.8},
        "Score texts": {
            "prompt": [[300, 411, 522], [700, 801]],
            "echo": True,
            "logprobs": 1,
            "max_tokens": 1,
            "temperature": 0,
        },
        "Teach without an answer": {"prompt": "Facts.", "max_tokens": 0, "session_id": _SESSION},
    },
    ResponseRequest: {
        "A response": {"input": "My name is Ada.", "instructions": "Be brief."},
        "What follows it": {
            "input": "What is my name?",
            "previous_response_id": f"resp_{_SESSION}_0123456789abcdef",
        },
        "The next in a conversation": {
            "input": [{"role": "user", "content": "What is my name?"}],
            "conversation": f"conv_{_SESSION}",
            "stream": True,
        },
    },
    ConversationCreate: {
        "With a beginning": {
            "items": [{"role": "system", "content": "Be brief."}],
            "metadata": {"topic": "names"},
        }
    },
    ConversationUpdate: {"Other metadata": {"metadata": {"topic": "towns"}}},
    ConversationItemsCreate: {"A message": {"items": [{"role": "user", "content": "By the way: I moved."}]}},
    TokenizeRequest: {"A text": {"prompt": "Once upon a time"}, "A chat": {"messages": _ASK}},
    DetokenizeRequest: {"Ids": {"tokens": [300, 411, 522]}},
    SessionCreate: {"A name": {"name": "Ada's"}},
    SessionFork: {"As it was": {"seq": 128, "name": "a try"}},
    SessionUpdate: {"Another name": {"name": "Ada's notes"}},
    SessionRollback: {"Back to there": {"seq": 128}},
}


def examples_of(model: type[BaseModel]) -> dict[str, Any]:
    """As OpenAPI has them; empty for a model without any."""
    return {name: {"value": value} for name, value in EXAMPLES.get(model, {}).items()}


@cache
def answer_examples() -> tuple[dict[str, Any], dict[str, str]]:
    """JSON answers by the name of their schema, texts by their path; a server with hope-tiny gave them."""
    text = (resources.files("hope_server.api") / "answer_examples.json").read_text(encoding="utf-8")
    found = json.loads(text)
    return found["json"], found["text"]
