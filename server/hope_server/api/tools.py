"""Tools of a chat request: what the model is told, what it has to keep to, what it called."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from hope_client.wire import (
    ChatCompletionRequest,
    ChatMessage,
    FunctionCall,
    NamedTool,
)
from hope_client.wire import ToolCall as WireCall
from hope_server.api.runtime import Runtime
from hope_server.chat import Message
from hope_server.chat.tools import Tool, ToolCall, ToolFormat, take_apart
from hope_server.constrained import Grammar
from hope_server.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Tools that a request brings, for a model that can call them."""

    format: ToolFormat
    tools: Sequence[Tool]
    required: bool
    parallel: bool

    def told(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` with the instructions in their first system message."""
        instructions = self.format.instructions(self.tools)
        if messages and messages[0].role == "system":
            return [Message("system", f"{messages[0].text}\n\n{instructions}"), *messages[1:]]
        return [Message("system", instructions), *messages]

    def canonical(self, text: str) -> str:
        """An answer as `text_of` writes it again when its client sends it back."""
        return self.format.written(*take_apart(text))

    async def grammar(self, runtime: Runtime) -> Grammar | None:
        """None where the model is free to call or to talk."""
        if not self.required:
            return None
        return await runtime.grammars.lark(
            self.format.grammar(self.tools, parallel=self.parallel), param="tools"
        )


def tool_use(runtime: Runtime, body: ChatCompletionRequest) -> ToolUse | None:
    """None where no tool may be called. Raises InvalidRequest for a model that cannot."""
    if not body.tools or body.tool_choice == "none":
        return None
    chosen = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    functions = [tool.function for tool in body.tools if chosen in (None, tool.function.name)]
    return ToolUse(
        _format(runtime, "tools"),
        [Tool(each.name, each.description, each.parameters) for each in functions],
        required=chosen is not None or body.tool_choice == "required",
        parallel=body.parallel_tool_calls and chosen is None,
    )


def text_of(runtime: Runtime, message: ChatMessage) -> str:
    """A message's text, with the calls that it makes as the model writes them."""
    if not message.tool_calls:
        return message.text
    calls = [_made(call.function.name, call.function.arguments) for call in message.tool_calls]
    return _format(runtime, "messages").written(message.text, calls)


def wire_call(call: ToolCall) -> WireCall:
    """A call under a new id."""
    return WireCall(
        id=f"call_{uuid.uuid4().hex[:24]}",
        function=FunctionCall(name=call.name, arguments=call.arguments),
    )


def _made(name: str, arguments: str) -> ToolCall:
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(
            f"messages: expected the arguments of {name} as a JSON object",
            param="messages",
            code="invalid_value",
        )
    return ToolCall(name, json.dumps(found))


def _format(runtime: Runtime, param: str) -> ToolFormat:
    if runtime.chat_format.tools is None:
        raise InvalidRequest(
            f"{param}: {runtime.model_name} was not trained to call tools",
            param=param,
            code="unsupported_value",
        )
    return runtime.chat_format.tools
