"""Bodies of the two generating endpoints."""

from typing import Annotated, Literal, Self, TypeVar, cast

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from hope_client.wire.base import (
    MAX_BIASED_TOKENS,
    MAX_CHOICES,
    MAX_COMPLETION_TOKENS,
    MAX_CONTENT_PARTS,
    MAX_LABEL_CHARS,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    MAX_PROMPTS,
    MAX_STOP_STRINGS,
    Label,
    Learn,
    Request,
    Role,
    SessionId,
    StopString,
    Text,
    TokenCount,
    TokenId,
    TokenName,
)
from hope_client.wire.formats import ResponseFormat
from hope_client.wire.neutral import Absent, EmptyList, EmptyObject, Off, On, One, Zero, only
from hope_client.wire.tools import MAX_TOOL_CALLS, MAX_TOOLS, MadeToolCall, NamedTool, Tool, ToolChoice


class StreamOptions(Request):
    """What a stream reports beside its text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Off = None


Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
P = TypeVar("P")
Prompts = Annotated[list[P], Field(min_length=1, max_length=MAX_PROMPTS)]


def _minus_one_is_off(top_k: int) -> int:
    """0 is "no limit"; vLLM's clients write -1 for it."""
    return max(top_k, 0)


class _GenerationRequest(Request):
    """What both generating endpoints share. Without `session_id` the session is ephemeral.

    `learn` "off": the turn is read, answered and journaled, but no token of it teaches. What earlier turns
    taught is not lost by it. A Hope model's φ, with which it reads, runs on.
    """

    model: Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)] | None = None
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1), AfterValidator(_minus_one_is_off)] = 0
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    min_tokens: int = Field(default=0, ge=0, le=MAX_COMPLETION_TOKENS)
    logit_bias: Annotated[dict[TokenName, Bias], Field(max_length=MAX_BIASED_TOKENS)] | None = None
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=10.0)
    response_format: ResponseFormat | None = None
    session_id: SessionId | None = None
    learn: Learn = "on"
    # Labels of the caller's own bookkeeping: they ask nothing of the server.
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    length_penalty: One = None
    min_p: Zero = None
    use_beam_search: Off = None
    skip_special_tokens: On = None
    metadata: EmptyObject = None

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
        if self.min_tokens and self.response_format is not None and self.response_format.type != "text":
            raise PydanticCustomError("min_tokens", "min_tokens and response_format do not fit together")
        return self


Tokens = Annotated[list[TokenId], Field(max_length=MAX_PROMPT_TOKENS)]


class CompletionRequest(_GenerationRequest):
    """POST /v1/completions: continue one prompt or several, each given as text or as token ids.

    `max_tokens` 0 reads the prompt and generates nothing. `echo` puts the prompt before each text, and with
    `logprobs` its tokens before those that were generated.
    """

    prompt: Text | Tokens | Prompts[Text] | Prompts[Tokens]
    max_tokens: int | None = Field(default=None, ge=0, le=MAX_COMPLETION_TOKENS)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False

    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    suffix: Annotated[object, only("")] = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One prompt or more; the answers to prompt i are the choices from i * n on."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [cast(list[int], self.prompt)]
        return self.prompt

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate; None when not given."""
        return self.max_tokens

    @model_validator(mode="after")
    def _choices_fit(self) -> Self:
        if self.best_of not in (None, self.n):
            raise PydanticCustomError("best_of", "best_of is supported only where it equals n")
        if (choices := len(self.prompts) * self.n) > MAX_CHOICES:
            context = {"most": MAX_CHOICES, "found": choices}
            raise PydanticCustomError("choices", "expected at most {most} choices, got {found}", context)
        return self


class TextPart(Request):
    """One piece of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(Request):
    """One message. A developer's is a system's. `tool_call_id` is accepted, as OpenAI's clients must send it;
    no model sees it.
    """

    role: Role
    content: Text | Annotated[list[TextPart], Field(max_length=MAX_CONTENT_PARTS)] | None = None
    tool_calls: Annotated[list[MadeToolCall], Field(max_length=MAX_TOOL_CALLS)] | None = None
    tool_call_id: Label | None = None

    # A client that sends an answer back as it came adds these.
    name: Absent = None
    refusal: Absent = None
    audio: Absent = None
    function_call: Absent = None
    reasoning_content: Absent = None
    annotations: EmptyList = None

    @property
    def text(self) -> str:
        """The whole content as one string."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("missing", "content: Field required")
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool_calls", "only an assistant's message has tool_calls")
        return self


class ChatCompletionRequest(_GenerationRequest):
    """POST /v1/chat/completions: answer the last message."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
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
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs needs logprobs: true")
        return self

    @model_validator(mode="after")
    def _tools_fit(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        if len(names) > len(set(names)):
            raise PydanticCustomError("tools", "expected tools of different names")
        if self.tool_choice == "required" and not names:
            raise PydanticCustomError("tool_choice", "tool_choice required needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise PydanticCustomError("tool_choice", "tool_choice names a tool that is not among the tools")
        shaped = self.response_format is not None and self.response_format.type != "text"
        if names and shaped:
            raise PydanticCustomError("response_format", "tools and response_format do not fit together")
        return self
