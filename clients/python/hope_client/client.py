"""The synchronous client."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Generic, Literal, Self, TypeVar, Unpack, overload

import httpx
from pydantic import BaseModel

from hope_client import _requests as requests
from hope_client import _session_requests as session_requests
from hope_client import wire
from hope_client._call import Call, address_of, auth_headers
from hope_client._failures import Retries, connection_error, status_error
from hope_client._requests import ChatOptions, CompletionOptions, Messages, Prompt
from hope_client._responses import Conversations, Responses
from hope_client._stream import Chunk, ChunkReader, check_content_type, text_of
from hope_client._transport import DEFAULT_TIMEOUT, DEFAULT_URL, LIMITS, tls_trust
from hope_client.errors import HopeClientError

T = TypeVar("T", bound=BaseModel)


class Client:
    """A connection to one Hope server. Safe to share between threads; close it, or use it in a `with`.

        with Client("http://127.0.0.1:8000") as client:
            session = client.sessions.create()
            for text in client.chat("Hello", session_id=session.id, stream=True).text():
                print(text, end="", flush=True)

    Failures that may pass are retried `max_retries` times, with the pause that the server asks for. A turn of
    a session is sent again only if the server cannot have begun it; every turn carries one Idempotency-Key,
    so that even a proxy that repeats it cannot make the session learn it twice. Raises what
    `hope_client.errors` draws.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        address = address_of(base_url)
        self._http = httpx.Client(
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
        self.sessions = Sessions(self)
        self.responses = Responses(self)
        self.conversations = Conversations(self)

    @overload
    def completions(
        self, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[CompletionOptions]
    ) -> wire.Completion: ...

    @overload
    def completions(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[CompletionOptions]
    ) -> "Stream[wire.Completion]": ...

    def completions(
        self, prompt: Prompt, *, stream: bool = False, **options: Unpack[CompletionOptions]
    ) -> "wire.Completion | Stream[wire.Completion]":
        """Continue one prompt or several, each given as text or as token ids."""
        call = requests.completion(prompt, stream=stream, answer=wire.Completion, **options)
        return self.open(call) if stream else self.call(call)

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> wire.ChatCompletion: ...

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> "Stream[wire.ChatCompletionChunk]": ...

    def chat(
        self, messages: Messages, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> "wire.ChatCompletion | Stream[wire.ChatCompletionChunk]":
        """Answer the last message. A session needs only the messages that it has not read yet."""
        if stream:
            return self.open(requests.chat(messages, stream=True, answer=wire.ChatCompletionChunk, **options))
        return self.call(requests.chat(messages, stream=False, answer=wire.ChatCompletion, **options))

    def models(self) -> wire.ModelList:
        """The models that the server serves."""
        return self.call(requests.models())

    def model(self, name: str) -> wire.Model:
        """One model. Raises NotFoundError for any but the served one."""
        return self.call(requests.model(name))

    def tokenize(
        self, given: Messages, *, model: str | None = None, return_token_strs: bool = False
    ) -> wire.Tokenized:
        """The ids of a text, or of messages at the beginning of a chat."""
        return self.call(requests.tokenize(given, model, return_token_strs))

    def detokenize(self, tokens: Sequence[int], *, model: str | None = None) -> wire.Detokenized:
        """The text of ids."""
        return self.call(requests.detokenize(tokens, model))

    def tokenizer_info(self) -> wire.TokenizerInfo:
        """What the server tells of its tokenizer."""
        return self.call(requests.tokenizer_info())

    def ready(self) -> wire.Ready:
        """That the server takes requests. Raises UnavailableError while it does not."""
        return self.call(requests.ready())

    def health(self) -> wire.Health:
        """Whether the server is alive."""
        return self.call(requests.health())

    def call(self, call: Call[T]) -> T:
        """Make one exchange and read its answer."""
        return call.parse(self._send(call).content)

    def open(self, call: Call[Chunk]) -> "Stream[Chunk]":
        """Begin one exchange whose answer is a stream."""
        return Stream(self._send(call), ChunkReader(call))

    def download(self, call: Call[T], file: IO[bytes]) -> int:
        """Write the answer's bytes to `file` as they come; returns their number.

        Raises ProtocolError for an answer of another kind, APIConnectionError for one that broke off.
        """
        response = self._send(call)
        size = 0
        try:
            check_content_type(response.headers.get("Content-Type", ""), wire.OCTET_STREAM)
            for data in response.iter_bytes():
                file.write(data)
                size += len(data)
        except httpx.HTTPError as failure:
            raise connection_error(failure) from failure
        finally:
            response.close()
        return size

    def _send(self, call: Call[T]) -> httpx.Response:
        retries = Retries(call.repeatable, self._max_retries)
        while True:
            outcome = self._attempt(call)
            if isinstance(outcome, httpx.Response):
                return outcome
            delay_s = retries.delay_s(outcome)
            if delay_s is None:
                raise outcome
            self._sleep(delay_s)

    def _attempt(self, call: Call[T]) -> httpx.Response | HopeClientError:
        try:
            request = self._http.build_request(
                call.method,
                call.path,
                json=call.body,
                content=call.content,
                params=call.params,
                headers=call.headers,
            )
            response = self._http.send(request, stream=call.streamed)
            if response.is_success:
                return response
            response.read()
        except httpx.HTTPError as failure:
            return connection_error(failure)
        return status_error(response.status_code, response.headers, response.content, now_s=self._now_s())

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class Stream(Generic[Chunk]):
    """An answer on its way: iterate over its chunks, or over `text()`.

    Closing it before its end stops the turn on the server within one token; what the session has read until
    then stays learned. A `with` closes it; so does reading to the end.
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

    def text(self) -> Iterator[str]:
        """The pieces of the first choice's text, without the chunks that have none."""
        return filter(None, map(text_of, self))

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def _read(self) -> Iterator[Chunk]:
        try:
            check_content_type(self._response.headers.get("Content-Type", ""))
            for data in self._response.iter_bytes():
                yield from self._reader.feed(data)
            self._reader.finish()
        except httpx.HTTPError as failure:
            raise connection_error(failure) from failure
        finally:
            self._response.close()

    def close(self) -> None:
        """Stop the answer."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class Sessions:
    """The server's sessions: `client.sessions`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, name: str | None = None) -> wire.Session:
        """A new session that has read nothing."""
        return self._client.call(session_requests.create(name))

    def get(self, session_id: str) -> wire.Session:
        """One session. Raises NotFoundError."""
        return self._client.call(session_requests.get(session_id))

    def rename(self, session_id: str, name: str) -> wire.Session:
        """Call a session by another name."""
        return self._client.call(session_requests.rename(session_id, name))

    def list(self, *, after: str | None = None, limit: int = 100) -> wire.SessionList:
        """A page of sessions: those behind the session `after`."""
        return self._client.call(session_requests.list(after, limit))

    def delete(self, session_id: str) -> wire.SessionDeleted:
        """Delete a session with everything it learned."""
        return self._client.call(session_requests.delete(session_id))

    def reset(self, session_id: str) -> wire.Session:
        """Take a session back to its beginning. Its journal keeps what it had read."""
        return self._client.call(session_requests.reset(session_id))

    def fork(self, session_id: str, *, seq: int | None = None, name: str | None = None) -> wire.Session:
        """A new session that is what this one was when `seq` (None: now) was its last journal entry."""
        return self._client.call(session_requests.fork(session_id, seq, name))

    def rollback(self, session_id: str, *, seq: int) -> wire.Session:
        """Take a session back to how it stood after the journal entry `seq`. The journal keeps what was."""
        return self._client.call(session_requests.rollback(session_id, seq))

    def verify(self, session_id: str) -> wire.Verification:
        """Compute a session's state from its journal and compare it with what a turn would go on from."""
        return self._client.call(session_requests.verify(session_id))

    def diff(self, session_id: str, *, from_seq: int = 0, to_seq: int | None = None) -> wire.Diff:
        """How each level changed from one journal entry to another (0: the beginning, None: the last)."""
        return self._client.call(session_requests.diff(session_id, from_seq, to_seq))

    def export(self, session_id: str) -> bytes:
        """A session as one file: what it learned, and its journal."""
        file = io.BytesIO()
        self.export_to(session_id, file)
        return file.getvalue()

    def export_to(self, session_id: str, file: IO[bytes]) -> int:
        """As `export`, written to `file` piece by piece; returns the number of bytes.

        Whether the file is whole its own checksum says: when this raises, what is written is worth nothing.
        """
        return self._client.download(session_requests.export(session_id), file)

    def import_(self, data: bytes) -> wire.Session:
        """A new session from an exported one, of this server or of another one with the same model."""
        return self._client.call(session_requests.import_(data))

    def levels(self, session_id: str) -> wire.Levels:
        """What each level of a session has done: tokens, writes, frequency, drift, bytes."""
        return self._client.call(session_requests.levels(session_id))

    def loss(self, session_id: str, *, tokens: int = 256) -> wire.SessionLoss:
        """The loss on a session's own recent text, with what it had learned before and without."""
        return self._client.call(session_requests.loss(session_id, tokens))

    def events(self, session_id: str, *, after: int = 0, limit: int = 1_000) -> wire.Events:
        """A page of a session's journal: the entries behind the seq `after`."""
        return self._client.call(session_requests.events(session_id, after, limit))

    def messages(self, session_id: str, *, after: int = 0, limit: int = 200) -> wire.SessionMessages:
        """A page of a session's chat, read back from its journal: the messages behind the seq `after`."""
        return self._client.call(session_requests.messages(session_id, after, limit))
