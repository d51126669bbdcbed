"""/tokenize, /detokenize and /tokenizer_info, as vLLM and the clients made for it write them."""

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hope_client.wire.base import (
    MAX_LABEL_CHARS,
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    Request,
    Response,
    Text,
    TokenId,
    none_is_absent,
)
from hope_client.wire.neutral import On
from hope_client.wire.requests import ChatMessage

ModelName = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]


class TokenizeRequest(Request):
    """POST /tokenize: a text, or the messages of a chat as the model reads them at its beginning.

    As in a completion, the name of a special token in a text is ordinary text; only a text that is nothing
    but the name of the eos or the bos token is that token. add_special_tokens: begin a text as a completion
    begins it. return_token_strs: each token as text too.
    """

    model: ModelName | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: On = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("prompt", "expected either a prompt or messages")
        return self


class Tokenized(Response):
    """The ids, their count, and how many the server reads in one request."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = none_is_absent()


class DetokenizeRequest(Request):
    """POST /detokenize."""

    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_PROMPT_TOKENS)]


class Detokenized(Response):
    """The text of the ids; special tokens stand for none."""

    prompt: str


class TokenizerInfo(Response):
    """GET /tokenizer_info. `eos_token` ends an answer, `bos_token` begins a text (none for most models).

    add_bos_token: whether a text sent to /v1/completions gets it. chat_template: how the model's chats are
    written, in Jinja. The server reads a special token's name inside a text as plain characters: to have the
    tokens of a chat, send /tokenize its `messages`.
    """

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    eos_token: str | None
    bos_token: str | None = None
    add_bos_token: bool
    chat_template: str | None = None
