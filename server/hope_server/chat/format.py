"""The seam between the API and a model's way of writing chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hope_server.chat.tools import ToolFormat
from hope_server.engine.request import PromptPart
from hope_server.sessions.session import Origin

ORIGINS: dict[str, Origin] = {"system": "system", "user": "user", "assistant": "model", "tool": "tool"}
"""Whose text a message of each role is."""


class Message(NamedTuple):
    """One message of a conversation. `role`: a key of `ORIGINS`."""

    role: str
    text: str


class LastToken(NamedTuple):
    """The token that a session read last, and whose it is."""

    token: int
    origin: Origin


class TextTokenizer(Protocol):
    """What the API needs of any tokenizer. `encode` never yields special ids; they decode to no bytes."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...
    def added_text(self, token: int) -> str | None:
        """The name of a token that is not made of bytes of text; None for any other."""
        ...


class ChatFormat(Protocol):
    """Turns messages into tokens, each turn from where the last one ended.

    A session reads every message once, so that a format sees only what is new and where the session stands;
    the tokens of all turns together are those of the whole conversation.
    """

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """The ids with which the model ends its answer."""
        ...

    @property
    def text_start(self) -> tuple[int, ...]:
        """The ids that come before a plain text which no chat surrounds; none for most models."""
        ...

    @property
    def tools(self) -> ToolFormat | None:
        """How the model is told of tools and calls them; None for one that cannot."""
        ...

    @property
    def source(self) -> str | None:
        """The whole format as a Jinja template, for clients that write chats themselves; None without one."""
        ...

    def render(self, messages: Sequence[Message], *, after: LastToken | None) -> tuple[PromptPart, ...]:
        """The prompt for `messages`, at least one; it ends with what opens the model's answer.

        Args:
            after: Where an earlier turn of the chat ended, whole or cut short; None at its beginning.

        Raises:
            InvalidRequest: The model's format has no place for such a sequence of messages.
        """
        ...
