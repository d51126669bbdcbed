"""The asynchronous client: `client.py` with the same calls, awaited."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import IO, Generic, Literal, Self, TypeVar, Unpack, overload

import httpx
from pydantic import BaseModel

from hope_client import _requests as requests
from hope_client import _session_requests as session_requests
from hope_client import wire
from hope_client._aresponses import AsyncConversations, AsyncResponses
from hope_client._call import Call, address_of, auth_headers
from hope_client._failures import Retries, connection_error, status_error
from hope_client._requests import ChatOptions, CompletionOptions, Messages, Prompt
from hope_client._stream import Chunk, ChunkReader, check_content_type, text_of
from hope_client._transport import DEFAULT_TIMEOUT, DEFAULT_URL, LIMITS, tls_trust
from hope_client.errors import HopeClientError

T = TypeVar("T", bound=BaseModel)


class AsyncClient:
    """A connection to one Hope server. Close it, or use it in an `async with`.

        async with AsyncClient("http://127.0.0.1:8000") as client:
            session = await client.sessions.create()
            stream = await client.chat("Hello", session_id=session.id, stream=True)
            async for text in stream.text():
                print(text, end="", flush=True)

    Retries and errors are those of `Client`.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        address = address_of(base_url)
        self._http = httpx.AsyncClient(
            base_url=address,
            headers=auth_headers(api_key),
            timeout=timeout,
            limits=LIMITS,
            verify=tls_trust(address),
            transport=transport,
        )
        self._max_retries = max_retries
        self._sleep = sleep
        self._now_s = now_s
        self.sessions = AsyncSessions(self)
        self.responses = AsyncResponses(self)
        self.conversations = AsyncConversations(self)

    @overload
    async def completions(
        self, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[CompletionOptions]
    ) -> wire.Completion: ...

    @overload
    async def completions(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[CompletionOptions]
    ) -> "AsyncStream[wire.Completion]": ...

    async def completions(
        self, prompt: Prompt, *, stream: bool = False, **options: Unpack[CompletionOptions]
    ) -> "wire.Completion | AsyncStream[wire.Completion]":
        """Continue one prompt or several, each given as text or as token ids."""
        call = requests.completion(prompt, stream=stream, answer=wire.Completion, **options)
        return await self.open(call) if stream else await self.call(call)

    @overload
    async def chat(
        self, messages: Messages, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> wire.ChatCompletion: ...

    @overload
    async def chat(
        self, messages: Messages, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> "AsyncStream[wire.ChatCompletionChunk]": ...

    async def chat(
        self, messages: Messages, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> "wire.ChatCompletion | AsyncStream[wire.ChatCompletionChunk]":
        """Answer the last message. A session needs only the messages that it has not read yet."""
        if stream:
            return await self.open(
                requests.chat(messages, stream=True, answer=wire.ChatCompletionChunk, **options)
            )
        return await self.call(requests.chat(messages, stream=False, answer=wire.ChatCompletion, **options))

    async def models(self) -> wire.ModelList:
        """The models that the server serves."""
        return await self.call(requests.models())

    async def model(self, name: str) -> wire.Model:
        """One model. Raises NotFoundError for any but the served one."""
        return await self.call(requests.model(name))

    async def tokenize(
        self, given: Messages, *, model: str | None = None, return_token_strs: bool = False
    ) -> wire.Tokenized:
        """The ids of a text, or of messages at the beginning of a chat."""
        return await self.call(requests.tokenize(given, model, return_token_strs))

    async def detokenize(self, tokens: Sequence[int], *, model: str | None = None) -> wire.Detokenized:
        """The text of ids."""
        return await self.call(requests.detokenize(tokens, model))

    async def tokenizer_info(self) -> wire.TokenizerInfo:
        """What the server tells of its tokenizer."""
        return await self.call(requests.tokenizer_info())

    async def ready(self) -> wire.Ready:
        """That the server takes requests. Raises UnavailableError while it does not."""
        return await self.call(requests.ready())

    async def health(self) -> wire.Health:
        """Whether the server is alive."""
        return await self.call(requests.health())

    async def call(self, call: Call[T]) -> T:
        """Make one exchange and read its answer."""
        return call.parse((await self._send(call)).content)

    async def open(self, call: Call[Chunk]) -> "AsyncStream[Chunk]":
        """Begin one exchange whose answer is a stream."""
        return AsyncStream(await self._send(call), ChunkReader(call))

    async def download(self, call: Call[T], file: IO[bytes]) -> int:
        """Write the answer's bytes to `file` as they come; returns their number.

        Raises ProtocolError for an answer of another kind, APIConnectionError for one that broke off.
        """
        response = await self._send(call)
        size = 0
        try:
            check_content_type(response.headers.get("Content-Type", ""), wire.OCTET_STREAM)
            async for data in response.aiter_bytes():
                file.write(data)
                size += len(data)
        except httpx.HTTPError as failure:
            raise connection_error(failure) from failure
        finally:
            await response.aclose()
        return size

    async def _send(self, call: Call[T]) -> httpx.Response:
        retries = Retries(call.repeatable, self._max_retries)
        while True:
            outcome = await self._attempt(call)
            if isinstance(outcome, httpx.Response):
                return outcome
            delay_s = retries.delay_s(outcome)
            if delay_s is None:
                raise outcome
            await self._sleep(delay_s)

    async def _attempt(self, call: Call[T]) -> httpx.Response | HopeClientError:
        try:
            request = self._http.build_request(
                call.method,
                call.path,
                json=call.body,
                content=call.content,
                params=call.params,
                headers=call.headers,
            )
            response = await self._http.send(request, stream=call.streamed)
            if response.is_success:
                return response
            await response.aread()
        except httpx.HTTPError as failure:
            return connection_error(failure)
        return status_error(response.status_code, response.headers, response.content, now_s=self._now_s())

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()


class AsyncStream(Generic[Chunk]):
    """An answer on its way: iterate over its chunks, or over `text()`.

    Closing it before its end stops the turn on the server within one token; what the session has read until
    then stays learned. An `async with` closes it; so does reading to the end.
    """

    def __init__(self, response: httpx.Response, reader: ChunkReader[Chunk]) -> None:
        self._response = response
        self._reader = reader
        self._chunks = self._read()

    @property
    def request_id(self) -> str | None:
        """The server's name for this request."""
        value: str | None = self._response.headers.get(wire.REQUEST_ID_HEADER)
        return value

    @property
    def finish_reason(self) -> wire.FinishReason | None:
        """Why the answer ended; None before its end."""
        return self._reader.finish_reason

    @property
    def usage(self) -> wire.Usage | None:
        """The tokens used, at the end, when asked for with `include_usage`."""
        return self._reader.usage

    async def text(self) -> AsyncIterator[str]:
        """The pieces of the first choice's text, without the chunks that have none."""
        async for chunk in self:
            if text := text_of(chunk):
                yield text

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks

    async def __anext__(self) -> Chunk:
        return await anext(self._chunks)

    async def _read(self) -> AsyncIterator[Chunk]:
        try:
            check_content_type(self._response.headers.get("Content-Type", ""))
            async for data in self._response.aiter_bytes():
                for chunk in self._reader.feed(data):
                    yield chunk
            self._reader.finish()
        except httpx.HTTPError as failure:
            raise connection_error(failure) from failure
        finally:
            await self._response.aclose()

    async def aclose(self) -> None:
        """Stop the answer."""
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()


class AsyncSessions:
    """The server's sessions: `client.sessions`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, name: str | None = None) -> wire.Session:
        """A new session that has read nothing."""
        return await self._client.call(session_requests.create(name))

    async def get(self, session_id: str) -> wire.Session:
        """One session. Raises NotFoundError."""
        return await self._client.call(session_requests.get(session_id))

    async def rename(self, session_id: str, name: str) -> wire.Session:
        """Call a session by another name."""
        return await self._client.call(session_requests.rename(session_id, name))

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.SessionList:
        """A page of sessions: those behind the session `after`."""
        return await self._client.call(session_requests.list(after, limit))

    async def delete(self, session_id: str) -> wire.SessionDeleted:
        """Delete a session with everything it learned."""
        return await self._client.call(session_requests.delete(session_id))

    async def reset(self, session_id: str) -> wire.Session:
        """Take a session back to its beginning. Its journal keeps what it had read."""
        return await self._client.call(session_requests.reset(session_id))

    async def fork(self, session_id: str, *, seq: int | None = None, name: str | None = None) -> wire.Session:
        """A new session that is what this one was when `seq` (None: now) was its last journal entry."""
        return await self._client.call(session_requests.fork(session_id, seq, name))

    async def rollback(self, session_id: str, *, seq: int) -> wire.Session:
        """Take a session back to how it stood after the journal entry `seq`. The journal keeps what was."""
        return await self._client.call(session_requests.rollback(session_id, seq))

    async def verify(self, session_id: str) -> wire.Verification:
        """Compute a session's state from its journal and compare it with what a turn would go on from."""
        return await self._client.call(session_requests.verify(session_id))

    async def diff(self, session_id: str, *, from_seq: int = 0, to_seq: int | None = None) -> wire.Diff:
        """How each level changed from one journal entry to another (0: the beginning, None: the last)."""
        return await self._client.call(session_requests.diff(session_id, from_seq, to_seq))

    async def export(self, session_id: str) -> bytes:
        """A session as one file: what it learned, and its journal."""
        file = io.BytesIO()
        await self.export_to(session_id, file)
        return file.getvalue()

    async def export_to(self, session_id: str, file: IO[bytes]) -> int:
        """As `export`, written to `file` piece by piece; returns the number of bytes.

        Whether the file is whole its own checksum says: when this raises, what is written is worth nothing.
        """
        return await self._client.download(session_requests.export(session_id), file)

    async def import_(self, data: bytes) -> wire.Session:
        """A new session from an exported one, of this server or of another one with the same model."""
        return await self._client.call(session_requests.import_(data))

    async def levels(self, session_id: str) -> wire.Levels:
        """What each level of a session has done: tokens, writes, frequency, drift, bytes."""
        return await self._client.call(session_requests.levels(session_id))

    async def loss(self, session_id: str, *, tokens: int = 256) -> wire.SessionLoss:
        """The loss on a session's own recent text, with what it had learned before and without."""
        return await self._client.call(session_requests.loss(session_id, tokens))

    async def events(self, session_id: str, *, after: int = 0, limit: int = 1_000) -> wire.Events:
        """A page of a session's journal: the entries behind the seq `after`."""
        return await self._client.call(session_requests.events(session_id, after, limit))

    async def messages(self, session_id: str, *, after: int = 0, limit: int = 200) -> wire.SessionMessages:
        """A page of a session's chat, read back from its journal: the messages behind the seq `after`."""
        return await self._client.call(session_requests.messages(session_id, after, limit))
