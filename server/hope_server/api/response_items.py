"""Items of the Responses API: between what is sent, what a chat is made of, and what is kept."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from hope_client.wire import (
    ChatCompletionRequest,
    FunctionCallItem,
    FunctionCallOutputItem,
    FunctionChoice,
    InputCall,
    InputCallOutput,
    InputItem,
    Item,
    ItemText,
    MessageItem,
    ResponseRequest,
)


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def kept(items: Sequence[InputItem]) -> list[Item]:
    """Items as they are listed later, each under a new id."""
    return [_kept(item) for item in items]


def _kept(item: InputItem) -> Item:
    if isinstance(item, InputCall):
        return FunctionCallItem(
            id=new_id("fc"),
            call_id=item.call_id,
            name=item.name,
            arguments=item.arguments,
            status="completed",
        )
    if isinstance(item, InputCallOutput):
        return FunctionCallOutputItem(id=new_id("fco"), call_id=item.call_id, output=item.output)
    kind: Any = "output_text" if item.role == "assistant" else "input_text"
    text = ItemText(type=kind, text=item.text, annotations=[] if kind == "output_text" else None)
    return MessageItem(id=new_id("msg"), role=item.role, status="completed", content=[text])


def chat_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Items as messages of a chat; an answer's text and its calls are one message."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, MessageItem):
            text = "".join(part.text for part in item.content)
            messages.append({"role": item.role, "content": text})
        elif isinstance(item, FunctionCallOutputItem):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        else:
            call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
    return messages


def chat_body(body: ResponseRequest, items: Sequence[Item]) -> ChatCompletionRequest:
    """The chat that a response is, for everything that both have; raises pydantic's ValidationError."""
    given: dict[str, Any] = {
        "messages": chat_messages(items),
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "seed": body.seed,
        "tools": [_tool(tool.to_wire()) for tool in body.tools or ()] or None,
        "tool_choice": body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _response_format(body),
    }
    if isinstance(body.tool_choice, FunctionChoice):
        given["tool_choice"] = {"type": "function", "function": {"name": body.tool_choice.name}}
    return ChatCompletionRequest.model_validate(given)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: tool[name] for name in tool if name != "type"}}


def _response_format(body: ResponseRequest) -> dict[str, Any] | None:
    if body.text is None or body.text.format is None:
        return None
    form = body.text.format.to_wire()
    kind = form.pop("type")
    return {"type": kind, "json_schema": form} if kind == "json_schema" else {"type": kind}
