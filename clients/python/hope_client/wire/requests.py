"""Bodies of the two generating endpoints."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from hope_client.wire.base import (
    MAX_CONTENT_PARTS,
    MAX_LABEL_CHARS,
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    MAX_STOP_STRINGS,
    Label,
    Request,
    Role,
    SessionId,
    StopString,
    Text,
    TokenCount,
    TokenId,
)
from hope_client.wire.neutral import Absent, EmptyList, EmptyObject, Off, On, One, Zero, only


class StreamOptions(Request):
    """What a stream reports beside its text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Off = None


def _minus_one_is_off(top_k: int) -> int:
    """0 is "no limit"; vLLM's clients write -1 for it."""
    return max(top_k, 0)


class _GenerationRequest(Request):
    """What both generating endpoints share. Without `session_id` the session is ephemeral."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)] | None = None
    max_tokens: TokenCount | None = None
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1), AfterValidator(_minus_one_is_off)] = 0
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    session_id: SessionId | None = None
    # Labels of the caller's own bookkeeping: they ask nothing of the server.
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    n: One = None
    logit_bias: EmptyObject = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    repetition_penalty: One = None
    length_penalty: One = None
    min_p: Zero = None
    min_tokens: Zero = None
    use_beam_search: Off = None
    skip_special_tokens: On = None
    logprobs: Off = None
    metadata: EmptyObject = None
    response_format: Annotated[object, only({"type": "text"})] = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="after")
    def _options_fit_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options needs stream: true")
        return self


def _single_prompt(value: object) -> object:
    """A batch of exactly one prompt is that prompt."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str | list):
        return value
    if len(value) > 1:
        raise PydanticCustomError("many_prompts", "expected one prompt, got {count}", {"count": len(value)})
    return value[0]


class CompletionRequest(_GenerationRequest):
    """POST /v1/completions: continue one prompt, given as text or as token ids."""

    prompt: Annotated[
        Text | Annotated[list[TokenId], Field(max_length=MAX_PROMPT_TOKENS)], BeforeValidator(_single_prompt)
    ]

    echo: Off = None
    best_of: One = None
    suffix: Annotated[object, only("")] = None


class TextPart(Request):
    """One piece of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(Request):
    """One message. `tool_call_id` is accepted, as OpenAI's clients must send it; no model sees it."""

    role: Role
    content: Text | Annotated[list[TextPart], Field(max_length=MAX_CONTENT_PARTS)]
    tool_call_id: Label | None = None

    # A client that sends an answer back as it came adds these.
    name: Absent = None
    refusal: Absent = None
    audio: Absent = None
    function_call: Absent = None
    reasoning_content: Absent = None
    annotations: EmptyList = None
    tool_calls: EmptyList = None

    @property
    def text(self) -> str:
        """The whole content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatCompletionRequest(_GenerationRequest):
    """POST /v1/chat/completions: answer the last message."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: TokenCount | None = None

    top_logprobs: Zero = None
    tools: EmptyList = None
    tool_choice: Annotated[object, only("none", "auto")] = None
    parallel_tool_calls: Annotated[object, only(True, False)] = None
    functions: EmptyList = None
    function_call: Annotated[object, only("none", "auto")] = None
    modalities: Annotated[object, only(["text"])] = None
    reasoning_effort: Annotated[object, only("none")] = None
    service_tier: Annotated[object, only("auto", "default")] = None
    store: Off = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate, under either of its two names; None when not given."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @model_validator(mode="after")
    def _one_token_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError("token_limits", "max_tokens and max_completion_tokens differ")
        return self
