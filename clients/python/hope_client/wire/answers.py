"""Answers of the two generating endpoints and the chunks of their streams, in OpenAI's shape."""

from typing import Literal

from hope_client.wire.base import FinishReason, Response, none_is_absent


class Usage(Response):
    """Tokens read from this request's new text, tokens generated, and their sum."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(Response):
    """A text, or in a stream the next piece of it."""

    index: int = 0
    text: str
    logprobs: None = None
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


class AnswerMessage(Response):
    """The message that the model wrote."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(Response):
    """One whole answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
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


class Delta(Response):
    """What one chunk adds to the answer: the role first, then text, then nothing."""

    role: Literal["assistant"] | None = none_is_absent()
    content: str | None = none_is_absent()


class ChatChunkChoice(Response):
    """One chunk's addition to one answer."""

    index: int = 0
    delta: Delta
    logprobs: None = None
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
