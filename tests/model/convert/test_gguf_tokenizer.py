"""A tokenizer rebuilt from a GGUF file gives the ids of the one that the file was made from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.convert.builders import EOS, SPECIALS, TEXTS, THINK, VOCAB, add_tokenizer, tiny_tokenizer
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hope_model.convert.fields import Fields
from hope_model.convert.gguf_tokenizer import tokenizer_json, turn_tokens
from hope_model.errors import ConversionError
from hope_model.pretrained_tokenizer import PretrainedTokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")


class Recorder:
    """Takes the calls of a GGUFWriter."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda value: self.values.__setitem__(name.removeprefix("add_"), value)


def metadata(pre: str = "smollm", **changes: Any) -> dict[str, Any]:
    recorder = Recorder()
    add_tokenizer(recorder, pre)
    values = recorder.values
    found = {
        "tokenizer.ggml.model": values["tokenizer_model"],
        "tokenizer.ggml.pre": values["tokenizer_pre"],
        "tokenizer.ggml.tokens": values["token_list"],
        "tokenizer.ggml.token_type": values["token_types"],
        "tokenizer.ggml.merges": values["token_merges"],
        "tokenizer.ggml.eos_token_id": values["eos_token_id"],
        "tokenizer.ggml.bos_token_id": values["bos_token_id"],
    }
    return found | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}


def rebuilt(pre: str) -> PretrainedTokenizer:
    text = tokenizer_json(Fields(metadata(pre), "m.gguf"))
    return PretrainedTokenizer(text, vocab_size=VOCAB, eos_ids=[EOS])


def reference(pre: str) -> Backend:
    backend = tiny_tokenizer()
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN_2), behavior="isolated"), last]
        )
    elif pre.startswith("llama"):
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated"), last]
        )
    elif pre != "smollm":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


NAMES = ["smollm", "qwen2", "llama-bpe", "gpt-2"]
TOKENIZERS = {pre: (rebuilt(pre), reference(pre)) for pre in NAMES}


@pytest.mark.parametrize("pre", NAMES)
@given(text=st.text() | st.text(alphabet="the cat'S12\n\r \t🙂é") | st.sampled_from(TEXTS))
def test_ids_of_templates_are_those_of_the_original(pre: str, text: str) -> None:
    found, expected = TOKENIZERS[pre]
    assert found.encode_template(text) == expected.encode(text, add_special_tokens=False).ids


def test_the_references_differ() -> None:
    """Else the test above could not tell one pre-tokenizer from another."""
    pieces = {str(reference(pre).pre_tokenizer.pre_tokenize_str("it'S 12345\n\n x")) for pre in NAMES}
    assert len(pieces) == len(NAMES)


def test_added_tokens_keep_their_ids_and_kinds() -> None:
    content = json.loads(tokenizer_json(Fields(metadata(), "m.gguf")))
    added = {token["content"]: (token["id"], token["special"]) for token in content["added_tokens"]}
    think = tiny_tokenizer().token_to_id(THINK)
    assert added == {**{token: (i, True) for i, token in enumerate(SPECIALS)}, THINK: (think, False)}


def test_rows_without_a_token_have_none() -> None:
    tokenizer = rebuilt("smollm")
    padding = next(i for i, kind in enumerate(metadata()["tokenizer.ggml.token_type"]) if kind == 5)
    assert "[PAD" not in tokenizer_json(Fields(metadata(), "m.gguf"))
    assert tokenizer.decode_bytes([padding, VOCAB - 1]) == b""


def test_words_of_llama_3_are_taken_whole() -> None:
    """Its vocabulary has words that no merge leads to."""
    values = metadata("llama-bpe")
    values["tokenizer.ggml.tokens"][VOCAB - 1] = "zqx"
    values["tokenizer.ggml.token_type"][VOCAB - 1] = 1
    text = tokenizer_json(Fields(values, "m.gguf"))
    assert PretrainedTokenizer(text, vocab_size=VOCAB, eos_ids=[EOS]).encode("zqx") == [VOCAB - 1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ((EOS,), 1, False)),
        ({"eot_token_id": 0, "eom_token_id": EOS}, ((EOS, 0), 1, False)),
        ({"add_bos_token": True}, ((EOS,), 1, True)),
        ({"pre": "llama-bpe"}, ((EOS,), 1, True)),
        ({"pre": "llama-bpe", "add_bos_token": False}, ((EOS,), 1, False)),
        ({"pre": "llama-bpe", "bos_token_id": None}, ((EOS,), None, False)),
    ],
)
def test_tokens_that_begin_and_end(changes: dict[str, Any], expected: tuple[object, ...]) -> None:
    found = turn_tokens(Fields(metadata(**changes), "m.gguf"))
    assert (found.eos, found.bos, found.add_bos) == expected


def _twice(values: dict[str, Any]) -> None:
    values["tokenizer.ggml.tokens"][5] = values["tokenizer.ggml.tokens"][6]


def _fewer(values: dict[str, Any]) -> None:
    values["tokenizer.ggml.token_type"].pop()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v.update({"tokenizer.ggml.pre": "tekken"}), "pre: expected one of smollm, .*'tekken'"),
        (lambda v: v.pop("tokenizer.ggml.pre"), "pre: expected a text, found none"),
        (lambda v: v.update({"tokenizer.ggml.model": "llama"}), r"expected byte-level BPE \(gpt2\)"),
        (lambda v: v.update({"tokenizer.ggml.tokens": [1]}), "tokens: expected a list of str"),
        (lambda v: v.pop("tokenizer.ggml.merges"), "merges: expected a list, found none"),
        (_twice, "expected tokens that differ"),
        (_fewer, "token_type: expected 320 types, found '319 types'"),
    ],
)
def test_lists_that_make_no_tokenizer_are_refused(damage: Any, message: str) -> None:
    values = metadata()
    damage(values)
    with pytest.raises(ConversionError, match=message):
        tokenizer_json(Fields(values, "m.gguf"))


def test_a_file_that_never_ends_a_turn_is_refused() -> None:
    with pytest.raises(ConversionError, match="eos_token_id: expected the id that ends a turn"):
        turn_tokens(Fields(metadata(eos_token_id=None), "m.gguf"))
