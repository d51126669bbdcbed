"""Log-probabilities as OpenAI's two generating endpoints write them."""

from __future__ import annotations

from collections.abc import Iterable

from hope_client.wire import AlternativeLogprob, ChatLogprobs, CompletionLogprobs
from hope_client.wire import TokenLogprob as WireLogprob
from hope_server.api.text import TokenDecoder
from hope_server.chat import TextTokenizer
from hope_server.engine.request import TokenLogprob


def token_text(tokenizer: TextTokenizer, token: int) -> str:
    """A token alone: its text, "bytes:\\x.." if that is no characters, its name if it is a special one."""
    data = tokenizer.decode_bytes((token,))
    if not data:
        return tokenizer.added_text(token) or ""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class CompletionTokens:
    """Writes the tokens of one choice of /v1/completions, piece by piece."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = TokenDecoder(tokenizer.decode_bytes)
        self._offset = 0

    def write(self, logprobs: Iterable[TokenLogprob]) -> CompletionLogprobs:
        """The next tokens."""
        tokens, own, offsets = [], [], []
        top: list[dict[str, float] | None] = []
        for each in logprobs:
            tokens.append(token_text(self._tokenizer, each.token))
            own.append(each.logprob)
            top.append(None if each.logprob is None else self._top(each, each.logprob))
            offsets.append(self._offset)
            self._offset += len(self._decoder.feed(each.token))
        return CompletionLogprobs(tokens=tokens, token_logprobs=own, top_logprobs=top, text_offset=offsets)

    def _top(self, each: TokenLogprob, own: float) -> dict[str, float]:
        """Of tokens with one text the likeliest is kept: the best value is always the best token's."""
        found: dict[str, float] = {}
        for token, logprob in (*each.top, (each.token, own)):
            found.setdefault(token_text(self._tokenizer, token), logprob)
        return found


def chat_logprobs(
    tokenizer: TextTokenizer, logprobs: Iterable[TokenLogprob], ends: frozenset[int]
) -> ChatLogprobs:
    """The tokens of a message, without those of `ends`, which show no text."""
    return ChatLogprobs(
        content=[
            WireLogprob(
                **_alternative(tokenizer, each.token, each.logprob).model_dump(),
                top_logprobs=[_alternative(tokenizer, token, logprob) for token, logprob in each.top],
            )
            for each in logprobs
            if each.logprob is not None and each.token not in ends
        ]
    )


def _alternative(tokenizer: TextTokenizer, token: int, logprob: float) -> AlternativeLogprob:
    text, data = token_text(tokenizer, token), tokenizer.decode_bytes((token,))
    return AlternativeLogprob(token=text, logprob=logprob, bytes=list(data))
