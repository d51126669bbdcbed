"""The format of pre-trained checkpoints: what their chat template writes, around texts that stay texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from hope_server.chat.format import ORIGINS, LastToken, Message, TextTokenizer
from hope_server.chat.probes import ANSWER, START, Step
from hope_server.chat.template import ChatTemplate
from hope_server.chat.tools import ToolFormat
from hope_server.engine.request import PromptPart
from hope_server.errors import InvalidRequest

_KEPT_GAPS = 128


class TemplateTokenizer(TextTokenizer, Protocol):
    """A tokenizer with special tokens of its own; only `encode_template` finds them in a text."""

    @property
    def eos_ids(self) -> frozenset[int]: ...
    @property
    def bos_id(self) -> int | None: ...
    def encode_template(self, text: str) -> list[int]: ...


class JinjaFormat:
    """Parts by turns: what the template writes ("template"), then a message's text (of its role's origin).

    The tokens are those of the whole rendered text, with two exceptions that keep a text a text. A special
    token written in a message is ordinary characters. The borders of a text are borders of tokens, where
    encoding the whole might merge white space at the edge of a message with the template's line feed before
    it. Blanks that the template writes before a text are read with it, as tokenizers join them to the word.

    Args:
        template: Learned from the checkpoint's.
        tokenizer: The checkpoint's.
        add_bos: Whether plain texts begin with the tokenizer's `bos_id`; in a chat the template says so.
        tools: How the model is told of tools and calls them, if it can.
        source: The checkpoint's template.
        clock: For templates that tell the model the date.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: TemplateTokenizer,
        *,
        add_bos: bool,
        tools: ToolFormat | None = None,
        source: str | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._clock = clock
        self.tools = tools
        self.source = source
        self._encode_gap = lru_cache(maxsize=_KEPT_GAPS)(tokenizer.encode_template)
        self.stop_token_ids = tokenizer.eos_ids
        self.text_start = () if not add_bos or tokenizer.bos_id is None else (tokenizer.bos_id,)

    def render(self, messages: Sequence[Message], *, after: LastToken | None) -> tuple[PromptPart, ...]:
        """See `ChatFormat`. The answer of an earlier turn is ended first, as far as it is not."""
        now = self._clock()
        before = START if after is None else "assistant"
        parts: list[PromptPart] = []
        for message in messages:
            gap = self._gap((before, message.role), now)
            text = self._template.forms[message.role](message.text)
            head = gap.rstrip(" ") if text else gap
            parts.append(PromptPart("template", tuple(self._encode_gap(head))))
            tokens = self._tokenizer.encode(gap[len(head) :] + text)
            parts.append(PromptPart(ORIGINS[message.role], tuple(tokens)))
            before = message.role
        parts.append(PromptPart("template", tuple(self._encode_gap(self._gap((before, ANSWER), now)))))
        if after is not None and after.origin == "model" and after.token in self.stop_token_ids:
            parts[0] = PromptPart("template", self._unread(parts[0].tokens, after.token))
        return tuple(part for part in parts if part.tokens)

    def _gap(self, step: Step, now: datetime) -> str:
        text = self._template.gap(step, now)
        if text is not None:
            return text
        before, then = step
        place = "an answer" if then == ANSWER else f"{then} messages"
        where = "at the beginning" if before == START else f"after {before} messages"
        raise InvalidRequest(
            f"messages: the model's chat template has no place for {place} {where}: "
            f"{self._template.refused[step]}",
            param="messages",
            code="unsupported_messages",
        )

    def _unread(self, gap: tuple[int, ...], stop: int) -> tuple[int, ...]:
        """The gap after an answer that the model ended itself with `stop`: the rest after that token.

        Templates that write white space before it are met by models that do not, or have done so already.
        """
        if stop not in gap:
            return gap
        end = gap.index(stop)
        blank = all(self._tokenizer.decode_bytes((token,)).isspace() for token in gap[:end])
        return gap[end + 1 :] if blank else gap
