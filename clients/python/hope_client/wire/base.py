"""What every wire model shares: names of headers, bounds, scalar types, the two base classes."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SESSION_HEADER = "X-Session-ID"
IDEMPOTENCY_HEADER = "Idempotency-Key"
REQUEST_ID_HEADER = "X-Request-ID"
OCTET_STREAM = "application/octet-stream"
"""Content-Type of an exported session."""

SESSION_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
IDEMPOTENCY_KEY_PATTERN = r"^[\x21-\x7e]{1,128}$"
MAX_TEXT_CHARS = 4_000_000
MAX_PROMPT_TOKENS = 1_000_000
MAX_COMPLETION_TOKENS = 1_000_000
MAX_MESSAGES = 16_384
MAX_CONTENT_PARTS = 1_024
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_PROMPTS = 256
MAX_CHOICES = 256
MAX_LOGPROBS = 20
MAX_BIASED_TOKENS = 1_024
MAX_LABEL_CHARS = 512
MAX_NAME_CHARS = 200
MAX_PAGE_SESSIONS = 1_000
MAX_PAGE_EVENTS = 10_000
MAX_PAGE_MESSAGES = 1_000
MAX_LOSS_TOKENS = 512
MAX_SEQ = 2**53 - 1

Role = Literal["system", "developer", "user", "assistant", "tool"]
MessageRole = Literal["system", "user", "tool", "assistant", "text"]
"""Whose a message of a session is; "text": a plain text, no chat."""
Origin = Literal["system", "user", "tool", "model", "template", "text"]
Learn = Literal["on", "off"]
Learning = Literal["on", "frozen"]
"""frozen: the session learns no more, since its writes were refused; it goes on reading and answering."""
"""Whether a turn's tokens teach. Those of a turn with "off" are read and journaled like all others."""
FinishReason = Literal["stop", "length", "tool_calls"]

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Label = Annotated[str, Field(max_length=MAX_LABEL_CHARS)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seq = Annotated[int, Field(ge=0, le=MAX_SEQ)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_COMPLETION_TOKENS)]
TokenName = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
"""A token id as a key of a JSON object."""
SessionId = Annotated[str, Field(pattern=SESSION_ID_PATTERN)]


class Request(BaseModel):
    """Base of every request body: frozen, strict, no unknown field, no NaN, null is "not given"."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}

    def to_wire(self) -> dict[str, object]:
        """The JSON object to send: only the fields that were given."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


class Response(BaseModel):
    """Base of every response body: frozen; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def none_is_absent(default: None = None) -> Any:
    """A field that is left out of the JSON, not null, while it is None."""
    return Field(default=default, exclude_if=lambda value: value is None)
