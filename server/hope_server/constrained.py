"""Answers that keep to a grammar: JSON of a schema, calls of tools. Needs llguidance, the extra "structured".

A grammar is compiled once for a request; each of its turns gets a constraint of its own, which says before
every draw which tokens may come.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hope_server.errors import InvalidRequest

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

    from hope_server.chat import TextTokenizer

_JSON_OPTIONS: JsonCompileOptions = {"whitespace_pattern": r"[ \n]{0,8}"}
"""A small model would write white space for ever where it may."""
_SHOWN_CHARS = 300


class Constraint:
    """Of one turn. Its calls take well under a millisecond for most grammars."""

    def __init__(self, matcher: LLMatcher, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self._ends = ends
        self.over = False
        """A token that ends an answer came, which it may only where the grammar is complete."""

    def allowed(self) -> bytes:
        """A bit for each token, the first token's the lowest of the first byte."""
        mask: bytes = self._matcher.compute_bitmask()
        self._check()
        return mask

    def accept(self, token: int) -> None:
        """``token``, which was allowed, came."""
        self._matcher.consume_token(token)
        self._check()
        self.over = token in self._ends

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RuntimeError(f"a grammar failed: {self._matcher.get_error()[:_SHOWN_CHARS]}")


class Grammar:
    """A compiled grammar."""

    def __init__(self, matcher: LLMatcher, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self._ends = ends

    def constraint(self) -> Constraint:
        """A constraint at the grammar's beginning."""
        return Constraint(self._matcher.deep_copy(), self._ends)


class Grammars:
    """Compiles grammars for one tokenizer.

    Args:
        tokenizer: The model's.
        ends: The ids that end an answer.
    """

    def __init__(self, tokenizer: TextTokenizer, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._compiling = asyncio.Lock()
        self._tables: LLTokenizer | None = None

    async def json_schema(self, schema: Mapping[str, Any] | None, *, param: str) -> Grammar:
        """One JSON value of `schema`; any object for None.

        Raises:
            InvalidRequest: Not a schema, one that asks for too much, or llguidance is not installed.
        """
        return await self._compile({"type": "object"} if schema is None else schema, param)

    async def lark(self, grammar: str, *, param: str) -> Grammar:
        """A grammar in llguidance's dialect of Lark. Raises as `json_schema` does."""
        return await self._compile(grammar, param)

    async def _compile(self, grammar: Mapping[str, Any] | str, param: str) -> Grammar:
        async with self._compiling:
            matcher = await asyncio.to_thread(self._matcher, grammar, param)
        if matcher.is_error():
            reason = matcher.get_error()[:_SHOWN_CHARS]
            raise InvalidRequest(
                f"{param}: expected a usable schema: {reason}", param=param, code="invalid_schema"
            )
        return Grammar(matcher, self._ends)

    def _matcher(self, grammar: Mapping[str, Any] | str, param: str) -> LLMatcher:
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise InvalidRequest(
                f"{param}: this server was installed without llguidance (the extra 'structured')",
                param=param,
                code="unsupported_value",
            ) from None
        if self._tables is None:
            self._tables = _tables(self._tokenizer, self._ends)
        if isinstance(grammar, str):
            return LLMatcher(self._tables, LLMatcher.grammar_from_lark(grammar), log_level=0)
        source = LLMatcher.grammar_from_json_schema(json.dumps(grammar), overrides=_JSON_OPTIONS)
        return LLMatcher(self._tables, source, log_level=0)


def _tables(tokenizer: TextTokenizer, ends: frozenset[int]) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(
        TokenizerWrapper(_Vocabulary(tokenizer, ends)), n_vocab=tokenizer.vocab_size, eos_token=sorted(ends)
    )


class _Vocabulary:
    """A tokenizer as llguidance reads it: a token without text begins with a byte that no text has."""

    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(ends)
        self.tokens = [tokenizer.decode_bytes((token,)) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = [token for token, data in enumerate(self.tokens) if not data]
        for token in self.special_token_ids:
            name = tokenizer.added_text(token) or f"<{token}>"
            self.tokens[token] = b"\xff" + name.encode()

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"))
