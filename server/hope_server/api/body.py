"""Reading a request: a bounded body, strict JSON, errors that name the field."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from hope_client.wire import OCTET_STREAM
from hope_server.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

T = TypeVar("T", bound=BaseModel)

CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "unsupported_value": "unsupported_value",
}
MAX_FOUND_CHARS = 60


async def read_json(request: Request, model: type[T], *, limit: int) -> T:
    """The request's body as `model`; an empty body counts as an empty object. Its hash goes into the state of
    the request.

    Raises:
        BodyTooLarge: It has, or announces, more than `limit` bytes. It is not read further than that.
        UnsupportedMediaType: It is not declared as JSON (a browser may send other types across sites).
        InvalidRequest: It is not UTF-8, not JSON, or does not fit the model.
    """
    body = bytes(await _read(request, limit))
    request.state.body_sha256 = hashlib.sha256(body).hexdigest()
    if not body:
        return _validate(model, {})
    _require_type(request, "application/json")
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("expected a JSON object as the body", code="invalid_type")
    return _validate(model, data)


async def read_octets(request: Request, *, limit: int) -> bytearray:
    """The request's body as it is, held once.

    Raises:
        BodyTooLarge, UnsupportedMediaType: As `read_json`.
    """
    _require_type(request, OCTET_STREAM)
    return await _read(request, limit)


def _require_type(request: Request, expected: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != expected:
        raise UnsupportedMediaType(f"expected Content-Type {expected}, found {media_type or 'none'!r}")


async def _read(request: Request, limit: int) -> bytearray:
    announced = request.headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,18}", announced) or int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return body


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"expected a body of at most {limit} bytes, found more")


def _validate(model: type[T], data: dict[str, object]) -> T:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False), data) from None


def invalid(errors: Sequence[ErrorDetails], data: object) -> InvalidRequest:
    """One of pydantic's errors about `data` as a sentence that names the field.

    A union reports an error for each of its members; the one that got furthest into the input is meant.
    """
    paths = [_path(error, data) for error in errors]
    deepest = max(range(len(errors)), key=lambda index: len(paths[index]))
    error, param = errors[deepest], ".".join(paths[deepest])
    kind = error["type"]
    code = CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else "invalid_value")
    where = f"{param}: " if param else ""
    return InvalidRequest(f"{where}{error['msg']}{_found(error, code)}", param=param or None, code=code)


def _path(error: ErrorDetails, data: object) -> list[str]:
    """The steps of an error's location that lead through the input; others name members of unions."""
    path: list[str] = []
    for index, step in enumerate(error["loc"]):
        if _holds(data, step):
            data = data[step]  # type: ignore[index]
        elif error["type"] != "missing" or index < len(error["loc"]) - 1:
            continue
        path.append(str(step))
    return path


def _holds(data: object, step: int | str) -> bool:
    if isinstance(data, dict):
        return step in data
    return isinstance(data, list) and isinstance(step, int) and step < len(data)


def _found(error: ErrorDetails, code: str) -> str:
    if code not in ("invalid_type", "invalid_value") or error["type"] == "string_pattern_mismatch":
        return ""
    found = error["input"]
    if isinstance(found, dict | list | str):
        return f", found {type(found).__name__} of length {len(found)}"
    text = str(found) if not isinstance(found, int) or abs(found) < 10**MAX_FOUND_CHARS else "a huge number"
    return f", found {text[:MAX_FOUND_CHARS]}"
