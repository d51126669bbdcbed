"""/tokenize, /detokenize and /tokenizer_info: the model's tokenizer, for clients that have none."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hope_client.wire import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)
from hope_server.api.body import read_json
from hope_server.api.chat import as_messages
from hope_server.api.logprobs import token_text
from hope_server.api.openapi import accepts
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.tenancy import SessionsOf
from hope_server.api.turn import check_model, check_tokens, tokenised

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", openapi_extra=accepts(TokenizeRequest))
async def tokenize(request: Request, runtime: RuntimeOf, _: SessionsOf) -> Tokenized:
    """The ids of a text, or of messages at the beginning of a chat."""
    body = await read_json(request, TokenizeRequest, limit=runtime.config.max_body_bytes)
    check_model(runtime, body.model)
    tokens = await _tokens(runtime, body)
    texts = [token_text(runtime.tokenizer, token) for token in tokens] if body.return_token_strs else None
    limit = runtime.config.max_prompt_tokens
    return Tokenized(count=len(tokens), max_model_len=limit, tokens=tokens, token_strs=texts)


@router.post("/detokenize", openapi_extra=accepts(DetokenizeRequest))
async def detokenize(request: Request, runtime: RuntimeOf, _: SessionsOf) -> Detokenized:
    """The text of ids; bytes that are no characters are U+FFFD."""
    body = await read_json(request, DetokenizeRequest, limit=runtime.config.max_body_bytes)
    check_model(runtime, body.model)
    check_tokens(runtime, body.tokens, param="tokens")
    return Detokenized(prompt=runtime.tokenizer.decode_bytes(body.tokens).decode("utf-8", "replace"))


@router.get("/tokenizer_info")
async def tokenizer_info(runtime: RuntimeOf, _: SessionsOf) -> TokenizerInfo:
    """What a client has to know to make prompts of its own."""
    eos, bos = _ends(runtime)
    return TokenizerInfo(
        tokenizer_class=type(runtime.tokenizer).__name__,
        vocab_size=runtime.tokenizer.vocab_size,
        model_max_length=runtime.config.max_prompt_tokens,
        eos_token=None if eos is None else runtime.tokenizer.added_text(eos),
        bos_token=None if bos is None else runtime.tokenizer.added_text(bos),
        add_bos_token=bos is not None,
        chat_template=runtime.chat_format.source,
    )


async def _tokens(runtime: Runtime, body: TokenizeRequest) -> list[int]:
    if body.messages is not None:
        messages = as_messages(runtime, body.messages)
        chars = sum(len(message.text) for message in messages)
        parts = await tokenised(runtime, chars, lambda: runtime.chat_format.render(messages, after=None))
        return [token for part in parts for token in part.tokens]
    text = body.prompt or ""
    for special in _ends(runtime):
        if special is not None and runtime.tokenizer.added_text(special) == text:
            return [special]
    tokens = await tokenised(runtime, len(text), lambda: runtime.tokenizer.encode(text))
    return [*runtime.chat_format.text_start, *tokens] if body.add_special_tokens else tokens


def _ends(runtime: Runtime) -> tuple[int | None, int | None]:
    """The ids that end an answer (the lowest) and begin a text."""
    form = runtime.chat_format
    return min(form.stop_token_ids, default=None), next(iter(form.text_start), None)
