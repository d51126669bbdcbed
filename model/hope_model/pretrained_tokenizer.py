"""The byte-level BPE tokenizers of pre-trained models.

Text of a user never yields an id of an added token: `encode` treats "<|im_end|>" in text as ordinary
characters. Such ids enter a sequence only through `encode_template`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from hope_model.errors import TokenizerError
from hope_model.tokenizer import byte_symbols

MAX_FILE_BYTES = 32 * 1024 * 1024
_PROBE = "Def f(x):\n\n\treturn  12345 * 'Ünï' # ☃ 𝄞 \r\n  "
"""Loses something under each of the usual lossy steps: case, accents, runs of white space, its ends."""


_NORMALIZERS = ("NFC", "NFKC")


class PretrainedTokenizer:
    """Text <-> token ids of a model that was trained elsewhere.

    Text round-trips up to the Unicode normalisation that the tokenizer asks for, and but for bytes that its
    vocabulary lacks: some have no token for rare control characters, which then vanish.

    vocab_size: ids of the model, from 0; those beyond the tokenizer's stand for nothing.
    eos_ids: ids that end a turn.
    bos_id: the id that begins a sequence, if the tokenizer has one.
    """

    def __init__(
        self, text: str, *, vocab_size: int, eos_ids: Collection[int], bos_id: int | None = None
    ) -> None:
        """Wrap the content of a tokenizer.json.

        Raises:
            TokenizerError: not a byte-level BPE tokenizer, one that changes text, or ids beyond the model's.
        """
        self.vocab_size = vocab_size
        self.eos_ids = frozenset(eos_ids)
        self.bos_id = bos_id
        self._sha256 = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
        self._template = parse_backend(text)
        content = json.loads(self._template.to_str())
        _require_byte_level(content)
        added = content["added_tokens"]
        _require_ids(added, text)
        self._plain = parse_backend(_without_specials(content))
        self._plain.encode_special_tokens = True
        self._bytes = _bytes_by_id(self._template, added, vocab_size)
        self._byte_ids = _ids_by_byte(self._template, added)
        self._added = {token["id"]: token["content"].encode() for token in added}
        for token in [*self.eos_ids, *([] if bos_id is None else [bos_id])]:
            self._require_id(token)
        self._require_lossless()

    def encode(self, text: str) -> list[int]:
        """Ordinary ids of ``text``; raises TokenizerError for text that is not valid Unicode."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text; runs outside of Python's lock."""
        return [self._spelled_out(ids) for ids in _encode(self._plain, texts)]

    def encode_template(self, text: str) -> list[int]:
        """Ids of a rendered chat template: added tokens count wherever they occur in ``text``.

        No id is put before or after them. Raises TokenizerError for text that is not valid Unicode.
        """
        return _encode(self._template, [text])[0]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that ``ids`` stand for; special tokens stand for nothing. Raises TokenizerError.

        Added tokens that are not special, as "<think>" is in some models, stand for their text.
        """
        for token in ids:
            self._require_id(token)
        return b"".join([self._bytes[token] for token in ids])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; a cut or invalid UTF-8 sequence becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def added_text(self, token: int) -> str | None:
        """The text which `encode_template` reads as ``token``; None for a token that is no added one."""
        content = self._added.get(token)
        return None if content is None else content.decode()

    def sha256(self) -> str:
        """Hex hash of the file's content."""
        return self._sha256

    @classmethod
    def load(
        cls, path: Path, *, vocab_size: int, eos_ids: Collection[int], bos_id: int | None = None
    ) -> PretrainedTokenizer:
        """Read a tokenizer.json; raises TokenizerError, with the file's name, for one that cannot be used."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
            if len(raw) > MAX_FILE_BYTES:
                raise TokenizerError(f"expected at most {MAX_FILE_BYTES} bytes, found more")
            return cls(raw.decode("utf-8"), vocab_size=vocab_size, eos_ids=eos_ids, bos_id=bos_id)
        except OSError as error:
            raise TokenizerError(f"{path.name}: cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, TokenizerError) as error:
            raise TokenizerError(f"{path.name}: {error}") from error

    def _spelled_out(self, ids: list[int]) -> list[int]:
        """``ids`` with every added token replaced by the tokens of its bytes.

        A vocabulary may let merges, or a whole word, lead to a token that is also an added one.
        """
        if self._added.keys().isdisjoint(ids):
            return ids
        spelled: list[int] = []
        for token in ids:
            content = self._added.get(token)
            spelled += (
                [token] if content is None else [self._byte_ids[b] for b in content if b in self._byte_ids]
            )
        return spelled

    def _require_id(self, token: int) -> None:
        if type(token) is not int or not 0 <= token < self.vocab_size:
            raise TokenizerError(f"token id: expected 0 to {self.vocab_size - 1}, found {token!r}")

    def _require_lossless(self) -> None:
        probe = "".join(c for c in _PROBE if all(byte in self._byte_ids for byte in c.encode()))
        found = self.decode(self.encode(probe))
        if found != probe:
            raise TokenizerError(f"expected a tokenizer that keeps text, found {probe!r} made {found!r}")


def parse_backend(text: str) -> Backend:
    """The library's tokenizer for a tokenizer.json; raises TokenizerError for what it cannot parse."""
    try:
        backend = Backend.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # plain Exception, and for some vocabularies a Rust panic, which is none
        raise TokenizerError(f"expected a tokenizers file, found {str(error)[:200]}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _encode(backend: Backend, texts: Sequence[str]) -> list[list[int]]:
    try:
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    except (TypeError, UnicodeError) as error:
        raise TokenizerError(f"text: expected valid Unicode, found {error}") from error
    return [encoding.ids for encoding in encodings]


def _require_byte_level(content: dict[str, Any]) -> None:
    model = content["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = "BPE over characters" if model.get("byte_fallback") else model.get("type")
        raise TokenizerError(f"expected a byte-level BPE tokenizer, found {kind}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise TokenizerError(f"model: {name}: expected none, found {model[name]!r}")
    for step in _steps(content["normalizer"], "normalizers"):
        if step["type"] not in _NORMALIZERS:
            expected = ", ".join(_NORMALIZERS)
            raise TokenizerError(f"normalizer: expected none or {expected}, found {step['type']}")
    last = next(reversed(_steps(content["pre_tokenizer"], "pretokenizers")), None)
    if last is None or last["type"] != "ByteLevel":
        found = None if last is None else last["type"]
        raise TokenizerError(f"pre_tokenizer: expected ByteLevel in the end, found {found}")


def _steps(part: dict[str, Any] | None, children: str) -> list[dict[str, Any]]:
    """The steps of a part of the pipeline, which may be none, one or a sequence of such."""
    if part is None:
        return []
    return (
        [step for child in part[children] for step in _steps(child, children)] if children in part else [part]
    )


def _require_ids(added: list[dict[str, Any]], text: str) -> None:
    """The library numbers an added token that its vocabulary lacks by itself, whatever the file says."""
    try:
        wanted = {token["content"]: token["id"] for token in json.loads(text).get("added_tokens") or []}
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # the two parsers differ on oddities
        raise TokenizerError(f"added_tokens: expected ids by content, found {error}") from error
    for token in added:
        if token["id"] != wanted.get(token["content"]):
            raise TokenizerError(
                f"added token {token['content']!r}: expected id {wanted.get(token['content'])}, "
                f"found {token['id']}"
            )


def _without_specials(content: dict[str, Any]) -> str:
    """The same tokenizer for plain text: every added token can be switched off, and none stands for unknown.

    The library's switch covers tokens marked special alone.
    """
    added = [{**token, "special": True} for token in content["added_tokens"]]
    return json.dumps({**content, "added_tokens": added, "model": {**content["model"], "unk_token": None}})


def _bytes_by_id(backend: Backend, added: list[dict[str, Any]], vocab_size: int) -> list[bytes]:
    symbols = byte_symbols()
    table = [b""] * vocab_size
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        if token_id >= vocab_size:
            raise TokenizerError(f"expected ids below the model's {vocab_size}, found {token_id} ({token!r})")
        known = all(c in symbols for c in token)
        # A word that is not made of byte symbols cannot come from text, but a model can still answer it.
        table[token_id] = bytes(symbols[c] for c in token) if known else token.encode()
    for special in added:
        table[special["id"]] = b"" if special["special"] else special["content"].encode()
    return table


def _ids_by_byte(backend: Backend, added: list[dict[str, Any]]) -> dict[int, int]:
    taken = {token["content"] for token in added}
    ids = {}
    for symbol, byte in byte_symbols().items():
        token_id = backend.token_to_id(symbol)
        if token_id is None:
            continue
        if symbol in taken:
            raise TokenizerError(f"added token {symbol!r}: expected no token of a single byte")
        ids[byte] = token_id
    return ids
