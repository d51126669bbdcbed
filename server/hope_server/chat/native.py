"""The format of this project's own checkpoints: <|role|> text <|end|>."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from hope_server.chat.format import ORIGINS, LastToken, Message, TextTokenizer
from hope_server.chat.tools import ToolFormat
from hope_server.engine.request import PromptPart


class NativeTokenizer(TextTokenizer, Protocol):
    """A tokenizer with one id that opens a message of each role and one that ends any message."""

    @property
    def eos_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    def role_id(self, role: str) -> int: ...


class NativeFormat:
    """One part for each message, its role and end included; the last part also opens the answer."""

    text_start: tuple[int, ...] = ()
    tools: ToolFormat | None = None

    def __init__(self, tokenizer: NativeTokenizer) -> None:
        self._tokenizer = tokenizer
        self.stop_token_ids = frozenset({tokenizer.eos_id, tokenizer.end_id})

    @property
    def source(self) -> str:
        """See `ChatFormat`; written with the names of the special tokens."""
        tokenizer = self._tokenizer
        opens = {role: tokenizer.added_text(tokenizer.role_id(role)) for role in ORIGINS}
        end = json.dumps(tokenizer.added_text(tokenizer.end_id))
        each = f"{{{{ opens[message.role] + message.content + {end} }}}}"
        return (
            f"{{% set opens = {json.dumps(opens)} %}}"
            f"{{% for message in messages %}}{each}{{% endfor %}}"
            "{% if add_generation_prompt %}{{ opens.assistant }}{% endif %}"
        )

    def render(self, messages: Sequence[Message], *, after: LastToken | None) -> tuple[PromptPart, ...]:
        """See `ChatFormat`; every sequence of messages has a place."""
        tokenizer = self._tokenizer
        parts = []
        for message in messages:
            tokens = [tokenizer.role_id(message.role), *tokenizer.encode(message.text), tokenizer.end_id]
            parts.append(PromptPart(ORIGINS[message.role], tuple(tokens)))
        if after is not None and after.origin == "model" and after.token not in self.stop_token_ids:
            parts[0] = PromptPart(parts[0].origin, (tokenizer.end_id, *parts[0].tokens))
        opened = (*parts[-1].tokens, tokenizer.role_id("assistant"))
        parts[-1] = PromptPart(parts[-1].origin, opened)
        return tuple(parts)
