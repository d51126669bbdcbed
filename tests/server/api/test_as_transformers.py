"""Our tokens beside transformers' own, for tokenizers of merges as checkpoints bring them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from tests.server.api.templates import (
    CHATML_SPECIALS,
    LLAMA3,
    LLAMA3_SPECIALS,
    MISTRAL,
    MISTRAL_SPECIALS,
    QWEN,
    SMOLLM2,
)
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from hope_server.chat import JinjaFormat, LastToken, Message, learn

SAMPLE = [
    "Hello there! How are you today?\n\nI am fine, thank you. 12 + 30 = 42.\n",
    "system user assistant tool You are a helpful assistant named Qwen, trained by Hugging Face.\n",
    "def main():\n    print('Größe: 5 €')\n",
]
ORDINARY = [
    "Hello there!",
    "How much is 12 + 30?\n\n- one\n- two",
    "Größe: 5 € 🙂",
    "def main():\n    return 1",
    "x",
    "1",
]
ROUGH = [*ORDINARY, " leading and trailing blanks ", "a line feed at the end\n"]


class Trained:
    """A tokenizer of merges; `backend` is what transformers gets."""

    bos_id = None

    def __init__(self, specials: Sequence[str], eos: str) -> None:
        self.backend, self._plain = _trained(specials), _trained(specials)
        self._plain.encode_special_tokens = True
        self.vocab_size = self.backend.get_vocab_size()
        self.eos_ids = frozenset(self.encode_template(eos))

    def added_text(self, token: int) -> str | None:
        added = self.backend.get_added_tokens_decoder().get(token)
        return None if added is None else str(added.content)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_template(self, text: str) -> list[int]:
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        text: str = self.backend.decode(list(ids))
        return text.encode()


def _trained(specials: Sequence[str]) -> Backend:
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SAMPLE * 4, trainer)
    return backend


class Pair(NamedTuple):
    """One template and tokenizer, as we have them and as transformers has them."""

    ours: JinjaFormat
    tokenizer: Trained
    theirs: Any

    def expected(self, messages: Sequence[Message]) -> list[int]:
        chat = [{"role": message.role, "content": message.text} for message in messages]
        return list(self.theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"])


def pair(source: str, specials: Sequence[str], *, eos: str, bos: str | None = None) -> Pair:
    transformers = pytest.importorskip("transformers")
    tokenizer = Trained(specials, eos)
    names = {"eos_token": eos} | ({} if bos is None else {"bos_token": bos})
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, **names)
    theirs.chat_template = source
    return Pair(
        JinjaFormat(learn(source, bos_token=bos, eos_token=eos), tokenizer, add_bos=False), tokenizer, theirs
    )


PAIRS = {
    "smollm2": lambda: pair(SMOLLM2, CHATML_SPECIALS, eos="<|im_end|>"),
    "qwen": lambda: pair(QWEN, CHATML_SPECIALS, eos="<|im_end|>"),
    "llama3": lambda: pair(LLAMA3, LLAMA3_SPECIALS, eos="<|eot_id|>", bos="<|begin_of_text|>"),
    "mistral": lambda: pair(MISTRAL, MISTRAL_SPECIALS, eos="</s>", bos="<s>"),
}
SYSTEMS: list[list[Message]] = [[], [Message("system", "Be brief.")]]


@pytest.mark.parametrize("name", ["smollm2", "qwen", "llama3"])
def test_a_session_reads_turn_by_turn_what_transformers_would(name: str) -> None:
    """The model ends its answers itself, and has nothing around them that a template would trim."""
    ours, tokenizer, theirs = PAIRS[name]()
    (stop,) = tokenizer.eos_ids
    for system in SYSTEMS:
        for shift in range(len(ROUGH)):
            messages, read, after = list[Message](), list[int](), None
            for turn in range(3):
                new = [*(system if turn == 0 else []), Message("user", ROUGH[(shift + turn) % len(ROUGH)])]
                messages += new
                read += [token for part in ours.render(new, after=after) for token in part.tokens]
                assert read == Pair(ours, tokenizer, theirs).expected(messages)
                answer = ORDINARY[(shift + 3 * turn) % len(ORDINARY)]
                messages.append(Message("assistant", answer))
                read += [*tokenizer.encode(answer), stop]
                after = LastToken(stop, "model")
            assert len(set(read)) > 20


@pytest.mark.parametrize("name", PAIRS)
def test_a_whole_conversation_is_what_transformers_reads(name: str) -> None:
    both = PAIRS[name]()
    roles = ["user", "assistant"] * 3
    for system in SYSTEMS:
        for shift in range(len(ORDINARY)):
            texts = [ORDINARY[(shift + index) % len(ORDINARY)] for index in range(5)]
            messages = [*system, *map(Message, roles, texts)]
            parts = both.ours.render(messages, after=None)
            assert [token for part in parts for token in part.tokens] == both.expected(messages)
