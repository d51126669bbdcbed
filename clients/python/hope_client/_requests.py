"""Build requests, read answers and decide on retries, without input or output: both clients share this."""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from hope_client import wire
from hope_client.errors import InvalidRequestError, ProtocolError

T = TypeVar("T", bound=BaseModel)
M = TypeVar("M", bound=wire.Request)

Prompt = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
Order = Literal["asc", "desc"]
Messages = str | Sequence[wire.ChatMessage | Mapping[str, object]]


class GenerationOptions(TypedDict, total=False):
    """Options of both generating calls; what is left out takes the server's default.

    `n` asks for as many answers, which needs a request without a session.
    Without `session_id` the server forgets the request when it ends. `idempotency_key` names the request
    across retries of your own; each call makes one of its own otherwise. `include_usage` asks a stream for
    its usage at the end, `continuous_usage` for the usage so far in each chunk too; other answers always have
    it.
    """

    session_id: str | None
    idempotency_key: str | None
    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: str | list[str] | None
    ignore_eos: bool
    n: int
    min_tokens: int
    logit_bias: Mapping[int, float] | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    response_format: wire.ResponseFormat | Mapping[str, object] | None
    include_usage: bool
    continuous_usage: bool
    user: str | None


class CompletionOptions(GenerationOptions, total=False):
    """`logprobs`: the log-probability of each token, and of so many likeliest ones beside it. `echo`: the
    prompt comes first in each text.
    """

    logprobs: int | None
    echo: bool


class ChatOptions(GenerationOptions, total=False):
    """`logprobs`: the log-probability of each token, and of `top_logprobs` likeliest ones beside it."""

    logprobs: bool
    top_logprobs: int | None
    max_completion_tokens: int | None
    tools: Sequence[wire.Tool | Mapping[str, object]] | None
    tool_choice: str | Mapping[str, object] | None
    parallel_tool_calls: bool | None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One HTTP exchange: what to send, and the model that the answer (or each chunk of a stream) must fit.

    `repeatable`: sending it twice does no more than sending it once. `streamed`: the answer comes in pieces.
    The body is JSON, or else the bytes of `content`.
    """

    method: str
    path: str
    answer: type[T]
    repeatable: bool
    streamed: bool = False
    body: dict[str, object] | None = None
    content: bytes | None = None
    params: dict[str, str | int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def parse(self, content: bytes | str) -> T:
        """The answer. Raises ProtocolError when it does not fit."""
        try:
            return self.answer.model_validate_json(content)
        except ValidationError as error:
            raise ProtocolError(f"{self.method} {self.path}: {_explain(error)}") from None


def completion(
    prompt: Prompt, *, stream: bool, answer: type[T], **options: Unpack[CompletionOptions]
) -> Call[T]:
    """POST /v1/completions."""
    given = prompt if isinstance(prompt, str) else [_as_list(each) for each in prompt]
    return _generation("/v1/completions", wire.CompletionRequest, {"prompt": given}, stream, answer, options)


def chat(messages: Messages, *, stream: bool, answer: type[T], **options: Unpack[ChatOptions]) -> Call[T]:
    """POST /v1/chat/completions. A plain string is one message of the user."""
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return _generation(
        "/v1/chat/completions", wire.ChatCompletionRequest, {"messages": given}, stream, answer, options
    )


def _generation(
    path: str,
    request_model: type[M],
    content: dict[str, object],
    stream: bool,
    answer: type[T],
    options: CompletionOptions | ChatOptions,
) -> Call[T]:
    fields: dict[str, object] = {**content, **options}
    if bias := options.get("logit_bias"):
        fields["logit_bias"] = {str(token): value for token, value in bias.items()}
    key = _idempotency_key(fields.pop("idempotency_key", None))
    continuous = fields.pop("continuous_usage", False)
    include_usage = fields.pop("include_usage", False)
    if stream:
        fields["stream"] = True
        if continuous:
            fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        elif include_usage:
            fields["stream_options"] = {"include_usage": True}
    body = _build(request_model, **fields).to_wire()
    session_id = body.pop("session_id", None)
    headers = {wire.IDEMPOTENCY_HEADER: key}
    if session_id is not None:
        # As a header, so that a proxy can route by it without reading the body.
        headers[wire.SESSION_HEADER] = str(session_id)
    repeatable = session_id is None
    return Call("POST", path, answer, repeatable=repeatable, streamed=stream, body=body, headers=headers)


def _as_list(prompt: str | int | Sequence[int]) -> object:
    return prompt if isinstance(prompt, str | int) else list(prompt)


def _idempotency_key(given: object) -> str:
    """The caller's key, or a new one."""
    if given is None:
        return str(uuid.uuid4())
    if not isinstance(given, str) or re.fullmatch(wire.IDEMPOTENCY_KEY_PATTERN, given) is None:
        raise InvalidRequestError(f"idempotency_key: expected 1 to 128 ASCII characters, got {given!r}")
    return given


class ResponseOptions(TypedDict, total=False):
    """Options of a response; what is left out takes the server's default.

    `previous_response_id` goes on from exactly where that response ended, `conversation` is the next turn of
    that conversation. With `store` false nothing is kept.
    """

    model: str | None
    instructions: str | None
    previous_response_id: str | None
    conversation: str | None
    store: bool
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    top_logprobs: int | None
    tools: Sequence[wire.FunctionTool | Mapping[str, object]] | None
    tool_choice: str | Mapping[str, object] | None
    parallel_tool_calls: bool | None
    text: wire.TextConfig | Mapping[str, object] | None
    metadata: Mapping[str, str] | None


Items = Sequence[wire.InputItem | Mapping[str, object]]


def response(
    given: str | Items, *, stream: bool, answer: type[T], **options: Unpack[ResponseOptions]
) -> Call[T]:
    """POST /v1/responses. It makes a session or adds to one, so that it is sent again only if not begun."""
    content = given if isinstance(given, str) else list(given)
    fields = {**options, "stream": True} if stream else dict(options)
    body = _build(wire.ResponseRequest, input=content, **fields).to_wire()
    headers = {wire.IDEMPOTENCY_HEADER: str(uuid.uuid4())}
    return Call(
        "POST", "/v1/responses", answer, repeatable=False, streamed=stream, body=body, headers=headers
    )


def response_get(response_id: str) -> Call[wire.ResponseObject]:
    """GET /v1/responses/{id}."""
    return Call("GET", _path("responses", response_id), wire.ResponseObject, repeatable=True)


def response_delete(response_id: str) -> Call[wire.ResponseDeleted]:
    """DELETE /v1/responses/{id}."""
    return Call("DELETE", _path("responses", response_id), wire.ResponseDeleted, repeatable=False)


def response_items(response_id: str, after: str | None, limit: int, order: Order) -> Call[wire.ItemList]:
    """GET /v1/responses/{id}/input_items."""
    path = f"{_path('responses', response_id)}/input_items"
    return Call("GET", path, wire.ItemList, repeatable=True, params=_page(after, limit, order))


def conversation_create(items: Items | None, metadata: Mapping[str, str] | None) -> Call[wire.Conversation]:
    """POST /v1/conversations."""
    given = None if items is None else list(items)
    body = _build(wire.ConversationCreate, items=given, metadata=metadata).to_wire()
    return Call("POST", "/v1/conversations", wire.Conversation, repeatable=False, body=body)


def conversation_get(conversation_id: str) -> Call[wire.Conversation]:
    """GET /v1/conversations/{id}."""
    return Call("GET", _path("conversations", conversation_id), wire.Conversation, repeatable=True)


def conversation_update(conversation_id: str, metadata: Mapping[str, str]) -> Call[wire.Conversation]:
    """POST /v1/conversations/{id}."""
    body = _build(wire.ConversationUpdate, metadata=dict(metadata)).to_wire()
    path = _path("conversations", conversation_id)
    return Call("POST", path, wire.Conversation, repeatable=True, body=body)


def conversation_delete(conversation_id: str) -> Call[wire.ConversationDeleted]:
    """DELETE /v1/conversations/{id}."""
    path = _path("conversations", conversation_id)
    return Call("DELETE", path, wire.ConversationDeleted, repeatable=False)


def conversation_items(
    conversation_id: str, after: str | None, limit: int, order: Order
) -> Call[wire.ItemList]:
    """GET /v1/conversations/{id}/items."""
    path = f"{_path('conversations', conversation_id)}/items"
    return Call("GET", path, wire.ItemList, repeatable=True, params=_page(after, limit, order))


def conversation_add(conversation_id: str, items: Items) -> Call[wire.ItemList]:
    """POST /v1/conversations/{id}/items."""
    body = _build(wire.ConversationItemsCreate, items=list(items)).to_wire()
    path = f"{_path('conversations', conversation_id)}/items"
    return Call("POST", path, wire.ItemList, repeatable=False, body=body)


def conversation_remove(conversation_id: str, item_id: str) -> Call[wire.Conversation]:
    """DELETE /v1/conversations/{id}/items/{item}."""
    path = f"{_path('conversations', conversation_id)}/items/{quote(item_id, safe='')}"
    return Call("DELETE", path, wire.Conversation, repeatable=False)


def session_create(name: str | None) -> Call[wire.Session]:
    """POST /v1/sessions."""
    body = _build(wire.SessionCreate, name=name).to_wire()
    return Call("POST", "/v1/sessions", wire.Session, repeatable=False, body=body)


def session_get(session_id: str) -> Call[wire.Session]:
    """GET /v1/sessions/{id}."""
    return Call("GET", _session_path(session_id), wire.Session, repeatable=True)


def session_list(after: str | None, limit: int) -> Call[wire.SessionList]:
    """GET /v1/sessions: the page behind the session `after`."""
    params: dict[str, str | int] = {"limit": limit}
    if after is not None:
        params["after"] = after
    return Call("GET", "/v1/sessions", wire.SessionList, repeatable=True, params=params)


def session_delete(session_id: str) -> Call[wire.SessionDeleted]:
    """DELETE /v1/sessions/{id}."""
    return Call("DELETE", _session_path(session_id), wire.SessionDeleted, repeatable=False)


def session_reset(session_id: str) -> Call[wire.Session]:
    """POST /v1/sessions/{id}/reset."""
    return Call("POST", f"{_session_path(session_id)}/reset", wire.Session, repeatable=False)


def session_fork(session_id: str, seq: int | None, name: str | None) -> Call[wire.Session]:
    """POST /v1/sessions/{id}/fork."""
    body = _build(wire.SessionFork, seq=seq, name=name).to_wire()
    path = f"{_session_path(session_id)}/fork"
    return Call("POST", path, wire.Session, repeatable=False, body=body)


def session_rollback(session_id: str, seq: int) -> Call[wire.Session]:
    """POST /v1/sessions/{id}/rollback."""
    body = _build(wire.SessionRollback, seq=seq).to_wire()
    path = f"{_session_path(session_id)}/rollback"
    return Call("POST", path, wire.Session, repeatable=False, body=body)


def session_verify(session_id: str) -> Call[wire.Verification]:
    """POST /v1/sessions/{id}/verify."""
    return Call("POST", f"{_session_path(session_id)}/verify", wire.Verification, repeatable=True)


def session_diff(session_id: str, from_seq: int, to_seq: int | None) -> Call[wire.Diff]:
    """GET /v1/sessions/{id}/diff."""
    params: dict[str, str | int] = {"from": from_seq}
    if to_seq is not None:
        params["to"] = to_seq
    return Call("GET", f"{_session_path(session_id)}/diff", wire.Diff, repeatable=True, params=params)


def session_export(session_id: str) -> Call[wire.Session]:
    """GET /v1/sessions/{id}/export, whose answer is a file."""
    path = f"{_session_path(session_id)}/export"
    return Call("GET", path, wire.Session, repeatable=True, streamed=True)


def session_import(data: bytes) -> Call[wire.Session]:
    """POST /v1/sessions/import."""
    headers = {"Content-Type": wire.OCTET_STREAM}
    path = "/v1/sessions/import"
    return Call("POST", path, wire.Session, repeatable=False, content=data, headers=headers)


def session_levels(session_id: str) -> Call[wire.Levels]:
    """GET /v1/sessions/{id}/levels."""
    return Call("GET", f"{_session_path(session_id)}/levels", wire.Levels, repeatable=True)


def session_events(session_id: str, after: int, limit: int) -> Call[wire.Events]:
    """GET /v1/sessions/{id}/events: the entries behind the seq `after`."""
    params: dict[str, str | int] = {"after": after, "limit": limit}
    return Call("GET", f"{_session_path(session_id)}/events", wire.Events, repeatable=True, params=params)


def models() -> Call[wire.ModelList]:
    """GET /v1/models."""
    return Call("GET", "/v1/models", wire.ModelList, repeatable=True)


def tokenize(given: Messages, model: str | None, return_token_strs: bool) -> Call[wire.Tokenized]:
    """POST /tokenize: a text, or messages."""
    content = {"prompt": given} if isinstance(given, str) else {"messages": list(given)}
    strs = True if return_token_strs else None
    body = _build(wire.TokenizeRequest, **content, model=model, return_token_strs=strs).to_wire()
    return Call("POST", "/tokenize", wire.Tokenized, repeatable=True, body=body)


def detokenize(tokens: Sequence[int], model: str | None) -> Call[wire.Detokenized]:
    """POST /detokenize."""
    body = _build(wire.DetokenizeRequest, tokens=list(tokens), model=model).to_wire()
    return Call("POST", "/detokenize", wire.Detokenized, repeatable=True, body=body)


def tokenizer_info() -> Call[wire.TokenizerInfo]:
    """GET /tokenizer_info."""
    return Call("GET", "/tokenizer_info", wire.TokenizerInfo, repeatable=True)


def health() -> Call[wire.Health]:
    """GET /health."""
    return Call("GET", "/health", wire.Health, repeatable=True)


def base_url(url: str) -> httpx.URL:
    """The server's address, with or without OpenAI's "/v1" at its end. Raises InvalidRequestError."""
    try:
        parsed = httpx.URL(url.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise InvalidRequestError(f"base_url: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequestError(f"base_url: expected http://… or https://…, got {url!r}")
    return parsed


def auth_headers(api_key: str | None) -> dict[str, str]:
    """The headers that every request carries. Raises InvalidRequestError."""
    if api_key is None:
        return {}
    if not (api_key.isascii() and api_key.isprintable()):
        raise InvalidRequestError("api_key: expected printable ASCII characters, got others")
    return {"Authorization": f"Bearer {api_key}"}


def _session_path(session_id: str) -> str:
    if not session_id:
        raise InvalidRequestError("expected a session id, got an empty string")
    return f"/v1/sessions/{quote(session_id, safe='')}"


def _path(kind: str, identity: str) -> str:
    if not identity:
        raise InvalidRequestError("expected an id, got an empty string")
    return f"/v1/{kind}/{quote(identity, safe='')}"


def _page(after: str | None, limit: int, order: Order) -> dict[str, str | int]:
    page: dict[str, str | int] = {"limit": limit, "order": order}
    return page if after is None else {**page, "after": after}


def _build(model: type[M], /, **fields: object) -> M:
    try:
        return model.model_validate({key: value for key, value in fields.items() if value is not None})
    except ValidationError as error:
        raise InvalidRequestError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
