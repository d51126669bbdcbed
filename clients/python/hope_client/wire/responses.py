"""/v1/responses: what is sent. An input holds only what is new: the session has read the rest."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hope_client.wire.base import (
    MAX_CONTENT_PARTS,
    MAX_LABEL_CHARS,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    Label,
    Learn,
    Request,
    Text,
    TokenCount,
)
from hope_client.wire.formats import Schema, SchemaName
from hope_client.wire.neutral import Absent, EmptyList, EmptyObject, Off, only
from hope_client.wire.tools import MAX_TOOLS

MAX_METADATA = 16
RESPONSE_ID_PATTERN = r"^resp_[A-Za-z0-9_-]{1,64}_[0-9a-f]{16}$"
CONVERSATION_ID_PATTERN = r"^conv_[A-Za-z0-9_-]{1,64}$"

ResponseId = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
MetadataText = Annotated[str, Field(max_length=512)]
MetadataName = Annotated[str, Field(pattern=r"^.{1,64}$")]
Metadata = Annotated[dict[MetadataName, MetadataText], Field(max_length=MAX_METADATA)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputPart(Request):
    """One piece of a message. An answer's piece that is sent back has more fields, which say nothing new."""

    type: Literal["input_text", "output_text", "text"]
    text: Text
    annotations: EmptyList = None
    logprobs: EmptyList = None


class InputMessage(Request):
    """One message; `id` and `status` are there when an earlier answer is sent back."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | Annotated[list[InputPart], Field(max_length=MAX_CONTENT_PARTS)]
    id: Label | None = None
    status: ItemStatus | None = None
    phase: Absent = None

    @property
    def text(self) -> str:
        """The whole content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class InputCall(Request):
    """A call of a function that an earlier answer made."""

    type: Literal["function_call"]
    call_id: Label
    name: SchemaName
    arguments: Text
    id: Label | None = None
    status: ItemStatus | None = None


class InputCallOutput(Request):
    """What a called function returned."""

    type: Literal["function_call_output"]
    call_id: Label
    output: Text
    id: Label | None = None
    status: ItemStatus | None = None


InputItem = InputMessage | InputCall | InputCallOutput
InputItems = Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]


class FunctionTool(Request):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    type: Literal["function"]
    name: SchemaName
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class FunctionChoice(Request):
    """The one function that has to be called."""

    type: Literal["function"]
    name: SchemaName


class PlainText(Request):
    type: Literal["text"]


class JsonObjectText(Request):
    type: Literal["json_object"]


class JsonSchemaText(Request):
    """Text that is one JSON value of a schema."""

    type: Literal["json_schema"]
    name: SchemaName
    description: Text | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class TextConfig(Request):
    """The form of the answer's text."""

    format: Annotated[PlainText | JsonObjectText | JsonSchemaText, Field(discriminator="type")] | None = None
    verbosity: Annotated[object, only("medium")] = None


class ResponseStreamOptions(Request):
    include_obfuscation: Off = None


class ConversationRef(Request):
    id: Label


class ResponseRequest(Request):
    """POST /v1/responses: answer the input.

    With `conversation` the turn is the next one of that conversation's session. With `previous_response_id`
    it goes on from exactly where that response ended: in the same session if nothing came after it, else in a
    fork. With neither it begins a session of its own. `store` false keeps nothing. `learn` "off": the turn is
    read and answered, but no token of it teaches.
    """

    model: Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)] | None = None
    input: Annotated[str, Field(min_length=1, max_length=4_000_000)] | InputItems
    instructions: Text | None = None
    previous_response_id: ResponseId | None = None
    conversation: Label | ConversationRef | None = None
    store: bool = True
    learn: Learn = "on"
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, le=2**31 - 1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=8)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool = True
    text: TextConfig | None = None
    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    background: Off = None
    max_tool_calls: Absent = None
    prompt: Absent = None
    reasoning: EmptyObject = None
    service_tier: Annotated[object, only("auto", "default")] = None
    truncation: Annotated[object, only("disabled", "auto")] = None

    @property
    def conversation_id(self) -> str | None:
        """The conversation's id, however it was given."""
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    @property
    def items(self) -> list[InputItem]:
        """The input as items; a text is one message of the user."""
        if isinstance(self.input, str):
            return [InputMessage(role="user", content=self.input)]
        return self.input

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's tokens come with their log-probabilities."""
        return bool(self.include) or self.top_logprobs is not None

    @model_validator(mode="after")
    def _one_past(self) -> Self:
        if self.conversation is not None and self.previous_response_id is not None:
            raise PydanticCustomError(
                "past", "expected either conversation or previous_response_id, found both"
            )
        if self.conversation is not None and not self.store:
            raise PydanticCustomError("store", "a conversation keeps its items: store false does not fit")
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options needs stream: true")
        return self


class ConversationCreate(Request):
    """POST /v1/conversations: `items` are read with the conversation's first response."""

    items: Annotated[list[InputItem], Field(max_length=20)] | None = None
    metadata: Metadata | None = None


class ConversationUpdate(Request):
    """POST /v1/conversations/{id}."""

    metadata: Metadata


class ConversationItemsCreate(Request):
    """POST /v1/conversations/{id}/items: they are read with the conversation's next response."""

    items: Annotated[list[InputItem], Field(min_length=1, max_length=20)]
