"""Tokenizers of pre-trained models: lossless, added tokens out of a user's reach, files checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.convert.builders import EOS, SPECIALS, THINK, VOCAB, tiny_tokenizer

from hope_model.errors import TokenizerError
from hope_model.pretrained_tokenizer import MAX_FILE_BYTES, PretrainedTokenizer

TEXT = tiny_tokenizer().to_str()
ADDED = {tiny_tokenizer().token_to_id(token) for token in (*SPECIALS, THINK)}


def wrap(content: dict[str, Any] | str) -> PretrainedTokenizer:
    text = content if isinstance(content, str) else json.dumps(content)
    return PretrainedTokenizer(text, vocab_size=VOCAB, eos_ids=[EOS])


TOKENIZER = wrap(TEXT)
TRICKY = st.lists(st.sampled_from([*SPECIALS, THINK, "<|", "|>", "im_end", " ", "\n", "the", "1"])).map(
    "".join
)


@given(st.text() | TRICKY)
def test_any_text_round_trips_without_added_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert b"".join(TOKENIZER.decode_bytes([token]) for token in ids) == text.encode()
    assert ADDED.isdisjoint(ids)


@given(st.lists(st.text() | TRICKY, max_size=5))
def test_a_batch_is_as_its_texts(texts: list[str]) -> None:
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]


def test_ordinary_text_has_the_ids_of_the_library() -> None:
    text = "the cat sat on the mat 1234 in Ünïcode ☃\n"
    assert TOKENIZER.encode(text) == tiny_tokenizer().encode(text).ids
    assert len(TOKENIZER.encode("the cat")) < len("the cat") - 2


def test_templates_may_use_added_tokens() -> None:
    text = f"<|im_start|>user\nthe{THINK}<|im_end|>"
    ids = TOKENIZER.encode_template(text)
    assert ids == tiny_tokenizer().encode(text).ids
    assert {1, 2} <= set(ids)
    assert ids != TOKENIZER.encode(text)


def test_templates_get_no_tokens_around_them() -> None:
    content = json.loads(TEXT)
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"x": {"id": "x", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    tokenizer = wrap(content)
    assert tokenizer.encode("the") == tokenizer.encode_template("the") == TOKENIZER.encode("the")


def test_special_tokens_decode_to_nothing_and_others_to_their_text() -> None:
    ids = TOKENIZER.encode_template(f"<|im_start|>the{THINK}<|im_end|>")
    assert TOKENIZER.decode(ids) == f"the{THINK}"


def test_added_tokens_have_a_text() -> None:
    think = tiny_tokenizer().token_to_id(THINK)
    assert [TOKENIZER.added_text(token) for token in (EOS, think or -1, 100)] == ["<|im_end|>", THINK, None]


def test_rows_beyond_the_tokenizer_decode_to_nothing() -> None:
    assert TOKENIZER.decode_bytes([VOCAB - 1]) == b""


@pytest.mark.parametrize("token", [-1, VOCAB, 10**9, True])
def test_other_ids_are_refused(token: int) -> None:
    with pytest.raises(TokenizerError, match="token id: expected 0 to 319"):
        TOKENIZER.decode_bytes([token])


def test_a_cut_character_decodes_to_the_replacement() -> None:
    ids = TOKENIZER.encode("☃")
    assert TOKENIZER.decode(ids[:-1]) == "�"
    assert TOKENIZER.decode_bytes(ids[:-1]) == "☃".encode()[:2]


def test_a_lone_surrogate_is_refused() -> None:
    for encode in (TOKENIZER.encode, TOKENIZER.encode_template):
        with pytest.raises(TokenizerError, match="valid Unicode"):
            encode("a\ud800b")


def test_merges_that_lead_to_an_added_token_do_not_count() -> None:
    content = json.loads(TEXT)
    the = content["model"]["vocab"]["the"]
    content["added_tokens"].append({**content["added_tokens"][0], "id": the, "content": "the"})
    tokenizer = wrap(content)
    assert TOKENIZER.encode("the") == [the]
    assert the not in tokenizer.encode("the cat")
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert tokenizer.encode_template("the") == [the]


def test_bytes_without_a_token_vanish_and_never_stand_for_a_special_one() -> None:
    content = json.loads(TEXT)
    vocab = content["model"]["vocab"]
    vocab["zq"] = vocab.pop("Ą")  # the symbol of byte 4
    content["model"]["unk_token"] = "<|endoftext|>"
    tokenizer = wrap(content)
    assert tokenizer.encode("a\x04b") == tokenizer.encode("a") + tokenizer.encode("b")


@pytest.mark.parametrize(
    "normalizer", [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}]
)
def test_a_normalizer_that_composes_is_kept(normalizer: dict[str, Any]) -> None:
    tokenizer = wrap({**json.loads(TEXT), "normalizer": normalizer})
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "é"


def test_truncation_and_padding_are_switched_off() -> None:
    content = json.loads(TEXT)
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    tokenizer = wrap(content)
    for text in ("a", "the cat sat on the mat"):
        assert tokenizer.encode(text) == TOKENIZER.encode(text)
        assert tokenizer.encode_template(text) == TOKENIZER.encode(text)


def _set(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = to

    return edit


def _drop_think(content: dict[str, Any]) -> None:
    content["added_tokens"][-1]["id"] += 1


def _byte_as_special(content: dict[str, Any]) -> None:
    token_id = content["model"]["vocab"]["a"]
    content["added_tokens"].append({**content["added_tokens"][0], "id": token_id, "content": "a"})


def _metaspace(content: dict[str, Any]) -> None:
    content["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    content["model"]["byte_fallback"] = True


_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set("model", "dropout", to=0.5), "model: dropout: expected none, found 0.5"),
        (_set("model", "byte_fallback", to=True), "expected a byte-level BPE tokenizer"),
        (_metaspace, "expected a byte-level BPE tokenizer, found BPE over characters"),
        (_set("pre_tokenizer", to=None), "pre_tokenizer: expected ByteLevel in the end"),
        (_set("pre_tokenizer", to={"type": "Whitespace"}), "found Whitespace"),
        (
            _set("pre_tokenizer", to={**_BYTES, "add_prefix_space": True}),
            "expected a tokenizer that keeps text",
        ),
        (
            _set("pre_tokenizer", to={"type": "Sequence", "pretokenizers": [_SPACES, _BYTES]}),
            "expected a tokenizer that keeps text",
        ),
        (
            _set("normalizer", to={"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}),
            "found Lowercase",
        ),
        (
            _set("normalizer", to={"type": "StripAccents"}),
            "normalizer: expected none or NFC, NFKC, found StripAccents",
        ),
        (_set("normalizer", to={"type": "Prepend", "prepend": "▁"}), "found Prepend"),
        (_drop_think, "added token '<think>': expected id 277, found 276"),
        (_byte_as_special, "added token 'a': expected no token of a single byte"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = json.loads(TEXT)
    damage(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*({message})") as caught:
        PretrainedTokenizer.load(path, vocab_size=VOCAB, eos_ids=[EOS])
    assert caught.value.code == "tokenizer_invalid"


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"model": 1}', b"[" * 100_000, b'{"a": "\\ud800"}']
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(raw)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        PretrainedTokenizer.load(path, vocab_size=VOCAB, eos_ids=[EOS])


def test_a_panic_of_the_library_is_an_error_like_others(capfd: pytest.CaptureFixture[str]) -> None:
    """Which is no Exception, and prints its trace by itself."""
    content = json.loads(TEXT)
    content["model"]["continuing_subword_prefix"] = "toolongforit"
    with pytest.raises(TokenizerError):
        wrap(content)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none\.json: cannot be read"):
        PretrainedTokenizer.load(tmp_path / "none.json", vocab_size=VOCAB, eos_ids=[EOS])
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerError, match=r"huge\.json: expected at most"):
        PretrainedTokenizer.load(tmp_path / "huge.json", vocab_size=VOCAB, eos_ids=[EOS])


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_turns_end_within_the_vocabulary(token: int) -> None:
    for ids in ({"eos_ids": [token]}, {"eos_ids": [EOS], "bos_id": token}):
        with pytest.raises(TokenizerError, match=f"found {token}"):
            PretrainedTokenizer(TEXT, vocab_size=VOCAB, **ids)


def test_a_model_with_fewer_ids_than_its_tokenizer_is_refused() -> None:
    with pytest.raises(TokenizerError, match="expected ids below the model's 270, found 27"):
        PretrainedTokenizer(TEXT, vocab_size=270, eos_ids=[EOS])


def test_what_it_was_given_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(TEXT)
    tokenizer = PretrainedTokenizer.load(path, vocab_size=VOCAB, eos_ids=[EOS, 0], bos_id=1)
    assert (tokenizer.vocab_size, tokenizer.eos_ids, tokenizer.bos_id) == (VOCAB, frozenset({0, EOS}), 1)
    assert TOKENIZER.bos_id is None
    assert tokenizer.sha256() == TOKENIZER.sha256()
    assert wrap({**json.loads(TEXT), "normalizer": {"type": "NFC"}}).sha256() != TOKENIZER.sha256()
