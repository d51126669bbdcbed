"""A chat as a session sees it: which messages are new, how they become tokens, what is remembered of them.

A session reads each message once. It remembers a transcript: the count of the messages it has read or
written and a chained hash over them. A request may bring the whole conversation, as OpenAI's clients do, or
only what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hope_server.api.text import AnswerText
from hope_server.engine.request import PromptPart
from hope_server.errors import ConversationDiverged, EmptyPrompt
from hope_server.sessions.store import Origin, Transcript

ORIGINS: dict[str, Origin] = {"system": "system", "user": "user", "assistant": "model", "tool": "tool"}
NO_TRANSCRIPT = Transcript(count=0, sha256="", first_message_sha256="")


class Tokenizer(Protocol):
    """What the API needs of a tokenizer; `encode` never yields special ids."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    def role_id(self, role: str) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    text: str


def advance(transcript: Transcript, messages: Sequence[Message]) -> Transcript:
    """The transcript after `messages`. White space around a text does not count: clients trim it."""
    count, digest, first = transcript.count, transcript.sha256, transcript.first_message_sha256
    for message in messages:
        content = f"{message.role}\0{message.text.strip()}".encode()
        first = first or hashlib.sha256(content).hexdigest()
        digest = hashlib.sha256(bytes.fromhex(digest) + content).hexdigest()
        count += 1
    return Transcript(count=count, sha256=digest, first_message_sha256=first)


def new_messages(transcript: Transcript, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages that the session has not read.

    Raises:
        ConversationDiverged: They begin like the session's conversation, then contradict it.
        EmptyPrompt: There is none, or none with text.
    """
    known = transcript.count
    fresh = messages
    if known and advance(NO_TRANSCRIPT, messages[:known]) == transcript:
        fresh = messages[known:]
        if not fresh:
            raise EmptyPrompt(
                f"the session has already read these {known} messages: send at least one new message",
                param="messages",
            )
    elif known and len(messages) > 1 and _starts_like(transcript, messages[0]):
        raise ConversationDiverged(
            f"the messages begin like the session's conversation but differ from the {known} messages "
            "that it has learned: send only the new messages, or create a new session",
            param="messages",
        )
    if not any(message.text.strip() for message in fresh):
        raise EmptyPrompt("expected a message with text, found only empty ones", param="messages")
    return fresh


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, close_last: bool) -> tuple[PromptPart, ...]:
    """The prompt for `messages`, one part each; the last one also opens the model's answer.

    Args:
        close_last: The session stands inside an answer that was cut short; it is ended first.
    """
    parts = []
    for message in messages:
        tokens = [tokenizer.role_id(message.role), *tokenizer.encode(message.text), tokenizer.end_id]
        parts.append(PromptPart(ORIGINS[message.role], tuple(tokens)))
    if close_last:
        parts[0] = PromptPart(parts[0].origin, (tokenizer.end_id, *parts[0].tokens))
    opened = (*parts[-1].tokens, tokenizer.role_id("assistant"))
    parts[-1] = PromptPart(parts[-1].origin, opened)
    return tuple(parts)


class AnswerTranscript:
    """The transcript as an answer grows, for any prefix of its tokens. Prefixes are asked for in order.

    Args:
        before: The transcript up to the message that is being answered.
        text: A fresh text of the answer.
        token_at: The answer's tokens by index.
    """

    def __init__(self, before: Transcript, text: AnswerText, token_at: Callable[[int], int]) -> None:
        self._before = before
        self._text = text
        self._token_at = token_at
        self._fed = 0

    def after(self, tokens: int) -> Transcript:
        """The transcript if the answer ended with its first `tokens` tokens."""
        for index in range(self._fed, tokens):
            self._text.feed(self._token_at(index))
        self._fed = max(self._fed, tokens)
        return advance(self._before, [Message("assistant", self._text.so_far())])


def _starts_like(transcript: Transcript, message: Message) -> bool:
    return advance(NO_TRANSCRIPT, [message]).first_message_sha256 == transcript.first_message_sha256
