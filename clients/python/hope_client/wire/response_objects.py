"""/v1/responses and /v1/conversations: what comes back, in OpenAI's shape."""

from typing import Annotated, Any, Literal

from pydantic import Field

from hope_client.wire.answers import TokenLogprob
from hope_client.wire.base import Response, none_is_absent
from hope_client.wire.extension import HopeTurn

Status = Literal["in_progress", "completed", "incomplete"]


class ItemText(Response):
    """One piece of a message's text."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[dict[str, Any]] | None = none_is_absent()
    logprobs: list[TokenLogprob] | None = none_is_absent()


class MessageItem(Response):
    """A message that was read or written."""

    id: str
    type: Literal["message"] = "message"
    role: str
    status: Status
    content: list[ItemText]


class FunctionCallItem(Response):
    """A call of a function; `arguments` is a JSON object as text."""

    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: Status


class FunctionCallOutputItem(Response):
    """What a called function returned."""

    id: str
    type: Literal["function_call_output"] = "function_call_output"
    call_id: str
    output: str
    status: Status = "completed"


Item = Annotated[MessageItem | FunctionCallItem | FunctionCallOutputItem, Field(discriminator="type")]


class InputTokensDetails(Response):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(Response):
    reasoning_tokens: int = 0


class ResponseUsage(Response):
    """Tokens read from this request's new text, tokens generated, and their sum."""

    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class IncompleteDetails(Response):
    reason: Literal["max_output_tokens"]


class ResponseFailure(Response):
    """Why a response failed."""

    code: str
    message: str


class ConversationId(Response):
    id: str


class ResponseObject(Response):
    """A response. `hope`: what its turn did to its session."""

    id: str
    object: Literal["response"] = "response"
    created_at: float
    completed_at: float | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None = None
    conversation: ConversationId | None = None
    temperature: float
    top_p: float
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    text: dict[str, Any]
    truncation: Literal["disabled"] = "disabled"
    store: bool
    metadata: dict[str, str]
    usage: ResponseUsage | None = None
    hope: HopeTurn | None = none_is_absent()

    @property
    def output_text(self) -> str:
        """All text of the answer."""
        messages = [item for item in self.output if isinstance(item, MessageItem)]
        return "".join(part.text for message in messages for part in message.content)


class ResponseDeleted(Response):
    """DELETE /v1/responses/{id}. What its session learned stays learned."""

    id: str
    object: Literal["response.deleted"] = "response.deleted"
    deleted: Literal[True] = True


class ItemList(Response):
    """A page of items; the next one is asked for with `after=last_id` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseEvent(Response):
    """One event of a streamed response; which fields it has depends on its type."""

    type: str
    sequence_number: int
    response: ResponseObject | None = none_is_absent()
    output_index: int | None = none_is_absent()
    content_index: int | None = none_is_absent()
    item_id: str | None = none_is_absent()
    item: Item | None = none_is_absent()
    part: ItemText | None = none_is_absent()
    delta: str | None = none_is_absent()
    text: str | None = none_is_absent()
    name: str | None = none_is_absent()
    arguments: str | None = none_is_absent()
    logprobs: list[TokenLogprob] | None = none_is_absent()


class Conversation(Response):
    """A conversation: a session, and the items that it has read, has written, or is to read next."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class ConversationDeleted(Response):
    """DELETE /v1/conversations/{id}: the session is gone, with all that it learned."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True
