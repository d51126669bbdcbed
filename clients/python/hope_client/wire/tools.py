"""Tools that a chat may call, and calls of them."""

from typing import Annotated, Literal

from pydantic import Field

from hope_client.wire.base import MAX_TEXT_CHARS, Label, Request, Response, Text
from hope_client.wire.formats import Schema, SchemaName

MAX_TOOLS = 128
MAX_TOOL_CALLS = 128


class Function(Request):
    """A function by its name; `parameters` is the JSON schema of its arguments, which a call always fits."""

    name: SchemaName
    description: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Request):
    """Something that the model may call: only functions."""

    type: Literal["function"]
    function: Function


class FunctionName(Request):
    name: SchemaName


class NamedTool(Request):
    """The one tool that has to be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class MadeFunctionCall(Request):
    """`arguments`: a JSON object as text."""

    name: SchemaName
    arguments: Text


class MadeToolCall(Request):
    """A call that an earlier answer made."""

    id: Label
    type: Literal["function"] = "function"
    function: MadeFunctionCall


class FunctionCall(Response):
    """`arguments`: a JSON object as text."""

    name: str
    arguments: str


class ToolCall(Response):
    """A call that the model makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ToolCallDelta(ToolCall):
    """A call in a stream, whole; `index`: its place among the calls of the answer."""

    index: int
