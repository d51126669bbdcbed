"""The tokenizer: reversible, digits alone, special tokens out of a user's reach, files checked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_model.errors import TokenizerError
from hope_model.tokenizer import MAX_FILE_BYTES, SPECIAL_TOKENS, Tokenizer, split_text

SIZE = 512


def _sample_text() -> list[str]:
    """Words made of random syllables: enough different pairs to fill a small vocabulary."""
    rng = random.Random(7)
    syllables = ["ka", "lo", "mi", "tes", "run", "dor", "be", "sha", "ing", "ed", "the", "an"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    return [" ".join(rng.choices(words, k=60)) + f" {rng.randint(0, 9999)} in 1999." for _ in range(100)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(_sample_text(), SIZE)


_TOKENIZER = Tokenizer.train(_sample_text(), SIZE)


def test_special_tokens_are_the_first_ids(tokenizer: Tokenizer) -> None:
    ids = [
        tokenizer.eos_id,
        tokenizer.end_id,
        *map(tokenizer.role_id, ("system", "user", "assistant", "tool")),
    ]
    assert ids == [0, 1, 2, 3, 4, 5]
    assert tokenizer.vocab_size == SIZE


@settings(deadline=None)
@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    ids = _TOKENIZER.encode(text)
    assert _TOKENIZER.decode(ids) == text
    assert b"".join(_TOKENIZER.decode_bytes([token]) for token in ids) == text.encode()


@settings(deadline=None)
@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "end", " ", "\n", "x", "1"])).map("".join))
def test_text_never_yields_a_special_id(text: str) -> None:
    ids = _TOKENIZER.encode(text)
    assert all(token >= len(SPECIAL_TOKENS) for token in ids)
    assert _TOKENIZER.decode(ids) == text


def test_encode_of_a_loaded_tokenizer_ignores_special_tokens_too(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", vocab_size=SIZE)
    text = "ka lo <|end|> 1234 <|user|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert min(loaded.encode(text)) >= len(SPECIAL_TOKENS)
    assert loaded.sha256() == tokenizer.sha256()


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("run 1234.5")]
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == ["1", "2", "3", "4", "5"]


def test_special_ids_decode_to_nothing(tokenizer: Tokenizer) -> None:
    message = tokenizer.encode_message("user", "ka lo")
    assert (message[0], message[-1]) == (tokenizer.role_id("user"), tokenizer.end_id)
    assert tokenizer.decode([*message, tokenizer.eos_id]) == "ka lo"


def test_a_cut_character_decodes_to_the_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("☃")
    assert tokenizer.decode(ids[:-1]) == "�"
    assert tokenizer.decode_bytes(ids[:-1]) == "☃".encode()[:2]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["\n", "\r\n", " ", "\t", "ab", "c.", "1", "é"]), max_size=200).map("".join))
def test_pieces_encode_to_the_same_ids_as_the_whole(text: str) -> None:
    pieces = list(split_text(text, limit=5))
    assert "".join(pieces) == text
    assert [token for piece in pieces for token in _TOKENIZER.encode(piece)] == _TOKENIZER.encode(text)


@pytest.mark.parametrize("token", [-1, SIZE, 10**9])
def test_decode_refuses_unknown_ids(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(TokenizerError, match=f"found {token}"):
        tokenizer.decode([token])


def test_encode_refuses_a_lone_surrogate(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="valid Unicode"):
        tokenizer.encode("a\ud800b")


def test_role_id_refuses_an_unknown_role(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="found 'root'"):
        tokenizer.role_id("root")


def test_too_little_text_is_refused() -> None:
    with pytest.raises(TokenizerError, match="expected enough"):
        Tokenizer.train(["a b c"], SIZE)
    with pytest.raises(TokenizerError, match="at least 262"):
        Tokenizer.train(_sample_text(), 100)


def _drop_byte(content: dict[str, Any]) -> None:
    """Without its byte for "z", but still without a gap in the ids."""
    vocab = content["model"]["vocab"]
    vocab["zq"] = vocab.pop("z")


def _gap(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[last] += 1


def _swap_specials(content: dict[str, Any]) -> None:
    vocab, added = content["model"]["vocab"], content["added_tokens"]
    vocab["<|end|>"], vocab["<|user|>"] = vocab["<|user|>"], vocab["<|end|>"]
    for token in added:
        token["id"] = vocab[token["content"]]


def _normalise(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Lowercase"}


def _no_digits(content: dict[str, Any]) -> None:
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]


def _word_model(content: dict[str, Any]) -> None:
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "a"}


def _dropout(content: dict[str, Any]) -> None:
    content["model"]["dropout"] = 0.5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_byte, "each of the 256 bytes"),
        (_gap, "without gaps"),
        (_swap_specials, "special tokens"),
        (_normalise, "normalizer"),
        (_no_digits, "pre_tokenizer"),
        (_word_model, "expected a BPE model"),
        (_dropout, "model: expected"),
    ],
)
def test_a_damaged_file_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(path)
    assert "tokenizer.json" in str(caught.value)
    assert caught.value.code == "tokenizer_invalid"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff\xfe", b'{"model": 1}', b"[" * 100_000])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(raw)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.load(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerError, match="at most"):
        Tokenizer.load(tmp_path / "huge.json")


def test_another_vocabulary_size_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="expected 8192 tokens, found 512"):
        Tokenizer.load(tmp_path / "tokenizer.json", vocab_size=8192)
