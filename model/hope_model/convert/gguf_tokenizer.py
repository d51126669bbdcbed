"""A tokenizer.json from the tokens, merges and pre-tokenizer's name of a GGUF file."""

import json
from typing import Any

from hope_model.convert.fields import Fields
from hope_model.convert.source import TurnTokens

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    "%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_json(metadata: Fields) -> str:
    """The file's content.

    Raises:
        ConversionError: another kind of tokenizer, an unknown pre-tokenizer, or lists that do not fit.
    """
    model = metadata.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise metadata.refusal("tokenizer.ggml.model", "byte-level BPE (gpt2)", model)
    name = metadata.text("tokenizer.ggml.pre")
    if name not in _PIPELINES:
        raise metadata.refusal("tokenizer.ggml.pre", f"one of {', '.join(_PIPELINES)}", name)
    tokens = metadata.items("tokenizer.ggml.tokens", str)
    types = metadata.items("tokenizer.ggml.token_type", int)
    if len(types) != len(tokens):
        raise metadata.refusal("tokenizer.ggml.token_type", f"{len(tokens)} types", f"{len(types)} types")
    # Rows of the embedding without a token of their own have a made-up name, which text must not reach.
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != _UNUSED}
    if len(vocabulary) != len(tokens) - types.count(_UNUSED):
        raise metadata.refusal("tokenizer.ggml.tokens", "tokens that differ", "the same one twice")
    added = [
        _added(i, tokens[i], special=kind != _USER_DEFINED)
        for i, kind in enumerate(types)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    merges = [merge.split(" ", 1) for merge in metadata.items("tokenizer.ggml.merges", str)]
    return json.dumps(_content(name, vocabulary, merges, added), ensure_ascii=False)


def turn_tokens(metadata: Fields) -> TurnTokens:
    """Ids that begin and end text; raises ConversionError when nothing ends a turn."""
    names = [f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot", "eom")]
    eos = dict.fromkeys(metadata.integer(name) for name in names if name in metadata)
    if not eos:
        raise metadata.refusal(names[0], "the id that ends a turn", None)
    bos_name = "tokenizer.ggml.bos_token_id"
    bos = metadata.integer(bos_name) if bos_name in metadata else None
    # Files of this family leave the flag out, and llama.cpp knows it by the pre-tokenizer.
    by_family = metadata.text("tokenizer.ggml.pre") in _LLAMA_3
    add_bos = bos is not None and metadata.flag("tokenizer.ggml.add_bos_token", by_family)
    return TurnTokens(tuple(eos), bos, add_bos)


def _content(
    name: str, vocabulary: dict[str, int], merges: list[list[str]], added: list[dict[str, Any]]
) -> dict[str, Any]:
    normalizer, steps = _PIPELINES[name]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        # Llama 3's words that are tokens are taken whole, even where no merge leads to them.
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": name in _LLAMA_3},
    }


def _added(token_id: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, "special": special, **flags}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_GPT_2 = [_byte_level(use_regex=True)]
_LLAMA_3 = ("llama-bpe", "llama3", "llama-v3")
_PIPELINES: dict[str, tuple[dict[str, Any] | None, list[dict[str, Any]]]] = {
    "smollm": (None, [{"type": "Digits", "individual_digits": True}, *_GPT_2]),
    "qwen2": ({"type": "NFC"}, [_split(_WORDS % ""), _byte_level(use_regex=False)]),
    **dict.fromkeys(_LLAMA_3, (None, [_split(_WORDS % "{1,3}"), _byte_level(use_regex=False)])),
    **dict.fromkeys(("gpt-2", "gpt2", "default"), (None, _GPT_2)),
}
"""By the name that llama.cpp gives to a pre-tokenizer: the normalizer and the steps of the original."""
