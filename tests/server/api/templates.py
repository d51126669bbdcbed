"""Chat templates for tests, and a tokenizer with special tokens of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hope_server.engine.request import PromptPart
from hope_server.sessions.session import JournalRecord

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}"
)
"""The template of HuggingFaceTB/SmolLM2-135M-Instruct, character by character."""

LLAMA3 = """
{%- for message in messages %}
    {%- if loop.first %}{{ bos_token }}{% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

QWEN = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ['user', 'assistant'] or not loop.first and message.role == 'system' %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""
"""Several answers of tools share one message."""

MISTRAL = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set opening = messages[0].content + '\n\n' %}{% set chat = messages[1:] %}
{%- else %}
    {%- set opening = '' %}{% set chat = messages %}
{%- endif %}
{%- for message in chat %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (opening if loop.first else '') + message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + eos_token }}
    {%- else %}
        {{- raise_exception('only user and assistant') }}
    {%- endif %}
{%- endfor %}
"""

CHATML_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
MISTRAL_SPECIALS = ("<s>", "</s>", "[INST]", "[/INST]")


class SpecialTokenizer:
    """Special tokens first, then one token for each byte.

    Args:
        specials: Their texts; the place of each is its id.
        eos: Those that end an answer.
        bos: The one that starts a text.
    """

    def __init__(self, specials: Sequence[str], *, eos: Iterable[str], bos: str | None = None) -> None:
        self.specials = tuple(specials)
        self.eos_ids = frozenset(self.specials.index(token) for token in eos)
        self.bos_id = None if bos is None else self.specials.index(bos)
        self.vocab_size = len(self.specials) + 256
        self._special = re.compile("|".join(f"({re.escape(token)})" for token in self.specials))

    def added_text(self, token: int) -> str | None:
        return self.specials[token] if token < len(self.specials) else None

    def encode(self, text: str) -> list[int]:
        return [len(self.specials) + byte for byte in text.encode()]

    def encode_template(self, text: str) -> list[int]:
        ids, at = [], 0
        for found in self._special.finditer(text):
            ids += [*self.encode(text[at : found.start()]), self.specials.index(found[0])]
            at = found.end()
        return [*ids, *self.encode(text[at:])]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        first = len(self.specials)
        return bytes(token - first for token in ids if token >= first)

    def spelled(self, parts: Iterable[PromptPart | JournalRecord]) -> list[tuple[str, str]]:
        """The origin and the text of every part, special tokens written out."""
        first = len(self.specials)
        return [
            (
                part.origin,
                b"".join(
                    self.specials[token].encode() if token < first else bytes([token - first])
                    for token in part.tokens
                ).decode(),
            )
            for part in parts
        ]


def chatml() -> SpecialTokenizer:
    return SpecialTokenizer(CHATML_SPECIALS, eos=["<|im_end|>"])


def llama3() -> SpecialTokenizer:
    return SpecialTokenizer(LLAMA3_SPECIALS, eos=["<|end_of_text|>", "<|eot_id|>"], bos="<|begin_of_text|>")


def mistral() -> SpecialTokenizer:
    return SpecialTokenizer(MISTRAL_SPECIALS, eos=["</s>"], bos="<s>")
