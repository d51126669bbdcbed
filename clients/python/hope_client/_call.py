"""One HTTP exchange as a value, and what every request is made with."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from hope_client import wire
from hope_client.errors import InvalidRequestError, ProtocolError

T = TypeVar("T", bound=BaseModel)
M = TypeVar("M", bound=wire.Request)


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


def address_of(url: str) -> httpx.URL:
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


def path_of(kind: str, identity: str) -> str:
    """Of one resource. Raises InvalidRequestError for an empty id."""
    if not identity:
        raise InvalidRequestError("expected an id, got an empty string")
    return f"/v1/{kind}/{quote(identity, safe='')}"


def build(model: type[M], /, **fields: object) -> M:
    """The body of a request, without fields that are None. Raises InvalidRequestError."""
    try:
        return model.model_validate({key: value for key, value in fields.items() if value is not None})
    except ValidationError as error:
        raise InvalidRequestError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
