"""A chat as a session sees it: which messages are new, and what is remembered of them.

A session reads each message once. It remembers a transcript: the count of the messages it has read or
written and a chained hash over them. A request may bring the whole conversation, as OpenAI's clients do, or
only what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from hope_server.api.text import AnswerText
from hope_server.chat import Message
from hope_server.errors import ConversationDiverged, EmptyPrompt
from hope_server.sessions.session import NO_TRANSCRIPT, Transcript


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


def with_tools(
    transcript: Transcript, messages: Sequence[Message], told: Callable[[Sequence[Message]], list[Message]]
) -> Sequence[Message]:
    """`messages` with what `told` adds about tools, unless they are new to a session that was told already.

    Raises:
        ConversationDiverged: The session has read the same conversation without these tools.
    """
    whole, known = told(messages), transcript.count
    if not known or advance(NO_TRANSCRIPT, whole[:known]) == transcript:
        return whole
    if advance(NO_TRANSCRIPT, messages[:known]) == transcript:
        raise ConversationDiverged(
            "the session has read this conversation without these tools: send only the new messages, or "
            "create a new session",
            param="tools",
        )
    repeated = {message.role for message in messages} & {"system", "assistant"}
    return messages if _starts_like(transcript, whole[0]) and not repeated else whole


class AnswerTranscript:
    """The transcript as an answer grows, for any prefix of its tokens. Prefixes are asked for in order.

    Args:
        before: The transcript up to the message that is being answered.
        text: A fresh text of the answer.
        token_at: The answer's tokens by index.
        canonical: The answer's text as a client will send it back.
    """

    def __init__(
        self,
        before: Transcript,
        text: AnswerText,
        token_at: Callable[[int], int],
        canonical: Callable[[str], str],
    ) -> None:
        self._before = before
        self._text = text
        self._token_at = token_at
        self._canonical = canonical
        self._fed = 0

    def after(self, tokens: int) -> Transcript:
        """The transcript if the answer ended with its first `tokens` tokens."""
        for index in range(self._fed, tokens):
            self._text.feed(self._token_at(index))
        self._fed = max(self._fed, tokens)
        return advance(self._before, [Message("assistant", self._canonical(self._text.so_far()))])


def _starts_like(transcript: Transcript, message: Message) -> bool:
    return advance(NO_TRANSCRIPT, [message]).first_message_sha256 == transcript.first_message_sha256
