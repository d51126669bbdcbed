"""Byte-level BPE tokenizer with fixed special tokens.

Text of a user never yields a special id: `encode` treats "<|end|>" in text as ordinary characters. Special
ids enter a sequence only through `encode_message`, `role_id`, `end_id` and `eos_id`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from hope_model.errors import TokenizerError

SPECIAL_TOKENS = ("<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
ROLES = ("system", "user", "assistant", "tool")
DEFAULT_VOCAB_SIZE = 8192
MAX_FILE_BYTES = 16 * 1024 * 1024
_SMALLEST_VOCAB = len(SPECIAL_TOKENS) + 256


class Tokenizer:
    """Reversible text <-> token ids: any text round-trips, and every byte has a token."""

    eos_id = SPECIAL_TOKENS.index("<|endoftext|>")
    end_id = SPECIAL_TOKENS.index("<|end|>")

    def __init__(self, backend: Backend) -> None:
        """Wrap a backend; raises TokenizerError unless its vocabulary is one that `train` makes."""
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._bytes = _bytes_by_id(backend)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included."""
        return len(self._bytes)

    def role_id(self, role: str) -> int:
        """The special id that opens a message of `role`; raises TokenizerError for an unknown role."""
        if role not in ROLES:
            raise TokenizerError(f"role: expected one of {', '.join(ROLES)}, found {role!r}")
        return SPECIAL_TOKENS.index(f"<|{role}|>")

    def encode(self, text: str) -> list[int]:
        """Ordinary ids of `text`; raises TokenizerError for text that is not valid Unicode."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text; runs outside of Python's lock."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeError) as error:
            raise TokenizerError(f"text: expected valid Unicode, found {error}") from error
        return [encoding.ids for encoding in encodings]

    def encode_message(self, role: str, text: str) -> list[int]:
        """One chat message: <|role|> text <|end|>."""
        return [self.role_id(role), *self.encode(text), self.end_id]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that `ids` stand for; special tokens stand for nothing. Raises TokenizerError."""
        for token in ids:
            if not 0 <= token < len(self._bytes):
                raise TokenizerError(f"token id: expected 0 to {len(self._bytes) - 1}, found {token}")
        return b"".join(self._bytes[token] for token in ids)

    def added_text(self, token: int) -> str | None:
        """The name of a special token; None for any other."""
        return SPECIAL_TOKENS[token] if token < len(SPECIAL_TOKENS) else None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; a cut or invalid UTF-8 sequence becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def sha256(self) -> str:
        """Hex hash of the vocabulary in id order; equal tokenizers have equal hashes."""
        lines = sorted((i, token) for token, i in self._backend.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write tokenizer.json; the file appears whole or not at all."""
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_text(self._backend.to_str(), encoding="utf-8")
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path, *, vocab_size: int | None = None) -> Tokenizer:
        """Read a tokenizer.json made by `save`; raises TokenizerError for any other content.

        `vocab_size`: the number of ids that the caller's model has; None accepts any.
        """
        backend = _checked_backend(path)
        try:
            tokenizer = cls(backend)
        except TokenizerError as error:
            raise TokenizerError(f"{path.name}: {error}") from error
        if vocab_size is not None and tokenizer.vocab_size != vocab_size:
            raise TokenizerError(f"{path.name}: expected {vocab_size} tokens, found {tokenizer.vocab_size}")
        return tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = DEFAULT_VOCAB_SIZE) -> Tokenizer:
        """Learn merges from `texts`, cut into short pieces first.

        Raises TokenizerError when the texts are too few to fill the vocabulary.
        """
        if vocab_size < _SMALLEST_VOCAB:
            raise TokenizerError(f"vocab_size: expected at least {_SMALLEST_VOCAB}, found {vocab_size}")
        backend = _pipeline(BPE())
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(byte_symbols()),
            show_progress=False,
            max_token_length=24,
        )
        backend.train_from_iterator(_pieces_of(texts), trainer)
        if backend.get_vocab_size() != vocab_size:
            found = backend.get_vocab_size()
            raise TokenizerError(
                f"training text: expected enough for a vocabulary of {vocab_size}, found {found}"
            )
        return cls(backend)


def split_text(text: str, limit: int = 65536) -> Iterator[str]:
    """Cut `text` into pieces of about `limit` characters whose encodings join to that of the whole.

    A cut lies before a line feed that follows a character other than white space: no token of the
    pre-tokenizer's pattern can span it. A text without line feeds stays whole.
    """
    start = 0
    while len(text) - start > limit:
        cut = text.find("\n", start + limit)
        while cut > 0 and text[cut - 1].isspace():
            cut = text.find("\n", cut + 1)
        if cut < 0:
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def _pieces_of(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from split_text(text)


def _pipeline(model: BPE) -> Backend:
    """The one text pipeline: GPT-2's pattern after every digit has been split off."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = ByteLevelDecoder()
    return backend


def _checked_backend(path: Path) -> Backend:
    """Parse a tokenizer file and refuse everything that `Tokenizer.train` would not have written."""
    text = _read_capped(path)
    try:
        content = json.loads(text)
        backend = Backend.from_str(text)
    except Exception as error:  # the library raises plain Exception for a file that it cannot parse
        raise TokenizerError(f"{path.name}: expected a tokenizers file, found {error}") from error
    model_type = content["model"].get("type")
    if model_type != "BPE":
        raise TokenizerError(f"{path.name}: expected a BPE model, found {model_type!r}")
    expected, found = _settings(_pipeline(BPE())), _settings(backend)
    for name, value in expected.items():
        if found.get(name) != value:
            raise TokenizerError(f"{path.name}: {name}: expected {value}, found {found.get(name)}")
    return backend


def _read_capped(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TokenizerError(f"{path.name}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise TokenizerError(f"{path.name}: expected at most {MAX_FILE_BYTES} bytes, found more")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path.name}: expected UTF-8, found {error}") from error


def _settings(backend: Backend) -> dict[str, Any]:
    """Everything of a backend's serialised form that changes ids, but for vocabulary and merges."""
    content = json.loads(backend.to_str())
    model = {key: value for key, value in content["model"].items() if key not in ("vocab", "merges")}
    outer = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
    return {"model": model} | {key: content[key] for key in outer}


def byte_symbols() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 stays, the rest moves above U+00FF."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(moved)}


def _bytes_by_id(backend: Backend) -> list[bytes]:
    """Bytes of every id; raises TokenizerError for a vocabulary with gaps, strangers or missing bytes."""
    symbols = byte_symbols()
    by_id = {token_id: token for token, token_id in backend.get_vocab(with_added_tokens=True).items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise TokenizerError("vocabulary: expected ids without gaps")
    found = tuple(by_id.get(i) for i in range(len(SPECIAL_TOKENS)))
    if found != SPECIAL_TOKENS:
        raise TokenizerError(f"special tokens: expected {SPECIAL_TOKENS} as the first ids, found {found}")
    if len(backend.get_added_tokens_decoder()) != len(SPECIAL_TOKENS):
        raise TokenizerError(f"added tokens: expected only {SPECIAL_TOKENS}")
    ordinary = [by_id[i] for i in range(len(SPECIAL_TOKENS), len(by_id))]
    if not set(symbols) <= set(ordinary):
        raise TokenizerError("vocabulary: expected a token for each of the 256 bytes")
    try:
        return [b""] * len(SPECIAL_TOKENS) + [bytes(symbols[c] for c in token) for token in ordinary]
    except KeyError as error:
        raise TokenizerError(f"vocabulary: expected byte symbols only, found {error}") from error
