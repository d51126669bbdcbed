"""A response as it grows: its items, and the events that a stream of it consists of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from hope_client.wire import (
    ConversationId,
    FunctionCallItem,
    HopeTurn,
    IncompleteDetails,
    Item,
    ItemText,
    MessageItem,
    ResponseEvent,
    ResponseFailure,
    ResponseObject,
    ResponseRequest,
    ResponseUsage,
    TokenLogprob,
)
from hope_server.api.logprobs import chat_logprobs
from hope_server.api.response_documents import conversation_id
from hope_server.api.response_items import new_id
from hope_server.api.response_turn import Place
from hope_server.api.runtime import Runtime
from hope_server.api.tools import wire_call
from hope_server.api.turn import Piece
from hope_server.chat.tools import ToolCall, ToolText


class ResponseOutput:
    """Takes the pieces of a turn; what each one adds comes back as events. The output's text comes first."""

    def __init__(self, runtime: Runtime, body: ResponseRequest, identity: str, place: Place | None) -> None:
        self._runtime = runtime
        self._body = body
        self._place = place
        self._id = identity
        self._created = time.time()
        self._tools = ToolText() if body.tools and body.tool_choice != "none" else None
        self._message: MessageItem | None = None
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._items: list[Item] = []
        self._sequence = 0

    def opening(self) -> Iterator[ResponseEvent]:
        """Before any output."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self.response("in_progress"))

    def feed(self, piece: Piece) -> Iterator[ResponseEvent]:
        """What one piece adds. After the last one the items are complete."""
        text, calls = piece.text, list[ToolCall]()
        last = piece.finish_reason is not None
        if self._tools is not None:
            text, calls = self._tools.finish(text) if last else self._tools.feed(text)
        logprobs = self._scored(piece)
        if text or logprobs or (last and self._message is None and not calls and not self._items):
            yield from self._say(text, logprobs)
        if self._message is not None and (last or calls):
            yield from self._end_message("completed" if piece.finish_reason != "length" else "incomplete")
        for call in calls:
            yield from self._call(call)

    def closing(self, response: ResponseObject) -> ResponseEvent:
        """After all output."""
        return self._event(f"response.{response.status}", response=response)

    def failed(self, code: str, message: str) -> ResponseEvent:
        """Instead of the rest."""
        response = self.response("failed", error=ResponseFailure(code=code, message=message))
        return self._event("response.failed", response=response)

    def response(self, status: Any, **more: Any) -> ResponseObject:
        """The response as it stands."""
        body, place = self._body, self._place
        conversation = None
        if place is not None and place.conversation:
            conversation = ConversationId(id=conversation_id(place.session_id))
        choice = body.tool_choice or "auto"
        form = body.text.format.to_wire() if body.text and body.text.format else {"type": "text"}
        return ResponseObject(
            id=self._id,
            created_at=self._created,
            status=status,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=self._runtime.model_name,
            output=list(self._items),
            parallel_tool_calls=body.parallel_tool_calls,
            previous_response_id=body.previous_response_id,
            conversation=conversation,
            temperature=body.temperature,
            top_p=body.top_p,
            tool_choice=choice if isinstance(choice, str) else choice.to_wire(),
            tools=[{"strict": False, **tool.to_wire()} for tool in body.tools or ()],
            text={"format": form},
            store=body.store,
            metadata=body.metadata or {},
            **more,
        )

    def whole(self, last: Piece) -> ResponseObject:
        """The response after its last piece."""
        usage = ResponseUsage(
            input_tokens=last.prompt_tokens,
            output_tokens=last.completion_tokens,
            total_tokens=last.prompt_tokens + last.completion_tokens,
        )
        cut = last.finish_reason == "length"
        return self.response(
            "incomplete" if cut else "completed",
            completed_at=None if cut else time.time(),
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if cut else None,
            usage=usage,
            hope=self._hope(last.hope),
        )

    def _hope(self, hope: HopeTurn | None) -> HopeTurn | None:
        """A session that is gone with the response has no name."""
        if hope is None or self._body.store:
            return hope
        return hope.model_copy(update={"session": None, "seq": None})

    def _say(self, text: str, logprobs: list[TokenLogprob]) -> Iterator[ResponseEvent]:
        if self._message is None:
            self._message = MessageItem(id=new_id("msg"), role="assistant", status="in_progress", content=[])
            yield self._of_item("output_item.added", item=self._message)
            yield self._of_part("content_part.added", part=self._part("", []))
        self._text += text
        self._logprobs += logprobs
        if text or logprobs:
            yield self._of_part("output_text.delta", delta=text, logprobs=logprobs)

    def _end_message(self, status: Any) -> Iterator[ResponseEvent]:
        assert self._message is not None
        part = self._part(self._text, self._logprobs)
        yield self._of_part("output_text.done", text=self._text, logprobs=self._logprobs)
        yield self._of_part("content_part.done", part=part)
        item = self._message.model_copy(update={"status": status, "content": [part]})
        yield self._of_item("output_item.done", item=item)
        self._items.append(item)
        self._message, self._text, self._logprobs = None, "", []

    def _call(self, call: ToolCall) -> Iterator[ResponseEvent]:
        item = FunctionCallItem(
            id=new_id("fc"),
            call_id=wire_call(call).id,
            name=call.name,
            arguments="",
            status="in_progress",
        )
        yield self._of_item("output_item.added", item=item)
        place = {"item_id": item.id, "output_index": len(self._items)}
        yield self._event("response.function_call_arguments.delta", delta=call.arguments, **place)
        yield self._event(
            "response.function_call_arguments.done", arguments=call.arguments, name=call.name, **place
        )
        done = item.model_copy(update={"arguments": call.arguments, "status": "completed"})
        yield self._of_item("output_item.done", item=done)
        self._items.append(done)

    def _part(self, text: str, logprobs: Sequence[TokenLogprob]) -> ItemText:
        return ItemText(type="output_text", text=text, annotations=[], logprobs=list(logprobs))

    def _of_item(self, kind: str, item: Item) -> ResponseEvent:
        return self._event(f"response.{kind}", output_index=len(self._items), item=item)

    def _of_part(self, kind: str, **more: Any) -> ResponseEvent:
        assert self._message is not None
        place = {"item_id": self._message.id, "output_index": len(self._items), "content_index": 0}
        return self._event(f"response.{kind}", **place, **more)

    def _event(self, kind: str, **more: Any) -> ResponseEvent:
        number, self._sequence = self._sequence, self._sequence + 1
        return ResponseEvent(type=kind, sequence_number=number, **more)

    def _scored(self, piece: Piece) -> list[TokenLogprob]:
        ends = self._runtime.chat_format.stop_token_ids
        found = chat_logprobs(self._runtime.tokenizer, piece.logprobs, ends)
        return found.content or []
