"""Answers of the two generating endpoints and the chunks of their streams, in OpenAI's shape."""

from typing import Literal

from hope_client.wire.base import FinishReason, Response, none_is_absent
from hope_client.wire.extension import HopeTurn
from hope_client.wire.tools import ToolCall, ToolCallDelta


class Usage(Response):
    """Tokens read from this request's new text, tokens generated, and their sum."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(Response):
    """Of each token of a choice, in nats; None for one that nothing predicts.

    tokens: as text; "bytes:\\x.." for bytes that are no characters, a special token by its name.
    top_logprobs: the likeliest tokens and theirs, the token itself among them. text_offset: where each token
    begins in the text.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Response):
    """A text, or in a stream the next piece of it."""

    index: int = 0
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Response):
    """The answer of /v1/completions, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[CompletionChoice]
    usage: Usage | None = none_is_absent()
    hope: HopeTurn | None = none_is_absent()


class AlternativeLogprob(Response):
    """A token that could have come: as text (as in `CompletionLogprobs`), in nats, as its bytes."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(AlternativeLogprob):
    """A token that came, and the likeliest ones at its place."""

    top_logprobs: list[AlternativeLogprob]


class ChatLogprobs(Response):
    """Of each token of a message; that which ends the message is left out."""

    content: list[TokenLogprob] | None = None
    refusal: None = None


class AnswerMessage(Response):
    """The message that the model wrote: a text, calls of tools, or both."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    tool_calls: list[ToolCall] | None = none_is_absent()


class ChatChoice(Response):
    """One whole answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletion(Response):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[ChatChoice]
    usage: Usage | None = none_is_absent()
    hope: HopeTurn | None = none_is_absent()


class Delta(Response):
    """What one chunk adds to the answer: the role first, then text, then nothing."""

    role: Literal["assistant"] | None = none_is_absent()
    content: str | None = none_is_absent()
    tool_calls: list[ToolCallDelta] | None = none_is_absent()


class ChatChunkChoice(Response):
    """One chunk's addition to one answer."""

    index: int = 0
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Response):
    """One chunk of a chat stream; the chunk that carries the usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[ChatChunkChoice]
    usage: Usage | None = none_is_absent()
    hope: HopeTurn | None = none_is_absent()
