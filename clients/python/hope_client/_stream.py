"""Read a stream of chunks, without input or output: both clients share this."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from pydantic import ValidationError

from hope_client import wire
from hope_client._call import Call
from hope_client._sse import SSEDecoder
from hope_client.errors import APIConnectionError, ProtocolError, StreamError

Chunk = TypeVar("Chunk", bound=wire.Completion | wire.ChatCompletionChunk | wire.ResponseEvent)
_DONE = "[DONE]"
_LAST_EVENTS: dict[str, wire.FinishReason | None] = {
    "response.completed": "stop",
    "response.incomplete": "length",
    "response.failed": None,
}
_EVENT_STREAM = "text/event-stream"


def check_content_type(content_type: str, expected: str = _EVENT_STREAM) -> None:
    """Refuse an answer that is not a stream of the kind expected: some other server speaks."""
    if content_type.partition(";")[0].strip().lower() != expected:
        raise ProtocolError(f"expected a stream of {expected}, got {content_type or 'no content type'}")


class ChunkReader(Generic[Chunk]):
    """Turns the bytes of one answer into chunks; keeps the usage and the finish reason that pass by."""

    def __init__(self, call: Call[Chunk]) -> None:
        self._call = call
        self._decoder = SSEDecoder()
        self.done = False
        self.usage: wire.Usage | None = None
        self.finish_reason: wire.FinishReason | None = None

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. An error event raises StreamError, after the chunks before it."""
        for event in self._decoder.feed(data):
            if event == _DONE:
                self.done = True
            if self.done:
                return
            yield self._read(event)

    def finish(self) -> None:
        """The bytes have ended. Raises APIConnectionError when the stream had not."""
        if not self.done:
            raise APIConnectionError(f"{self._call.path}: the stream ended before {_DONE}")

    def _read(self, event: str) -> Chunk:
        error = _error_in(event)
        if error is not None:
            raise StreamError(error)
        chunk = self._call.parse(event)
        if isinstance(chunk, wire.ResponseEvent):
            self._read_event(chunk)
            return chunk
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
        return chunk

    def _read_event(self, event: wire.ResponseEvent) -> None:
        """The last event of a response brings it whole, or says why there is none."""
        response = event.response
        if event.type not in _LAST_EVENTS or response is None:
            return
        if response.error is not None:
            failure = wire.ErrorDetail(
                message=response.error.message, type="response_failed", code=response.error.code
            )
            raise StreamError(failure)
        self.done = True
        self.finish_reason = _LAST_EVENTS[event.type]
        if (usage := response.usage) is not None:
            self.usage = wire.Usage(
                prompt_tokens=usage.input_tokens,
                completion_tokens=usage.output_tokens,
                total_tokens=usage.total_tokens,
            )


def _error_in(event: str) -> wire.ErrorDetail | None:
    if '"error"' not in event:
        return None
    try:
        return wire.ErrorBody.model_validate_json(event).error
    except ValidationError:
        return None


def text_of(chunk: wire.Completion | wire.ChatCompletionChunk | wire.ResponseEvent) -> str:
    """What one chunk adds to the text of the first choice, or of a response."""
    if isinstance(chunk, wire.ResponseEvent):
        return chunk.delta or "" if chunk.type == "response.output_text.delta" else ""
    if isinstance(chunk, wire.Completion):
        return "".join(choice.text for choice in chunk.choices if choice.index == 0)
    return "".join(choice.delta.content or "" for choice in chunk.choices if choice.index == 0)
