"""``hope convert`` with the model's own way of writing chats, which the calibration asks in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hope_model.convert import cli

if TYPE_CHECKING:
    from hope_model.convert.source import TurnTokens
    from hope_model.pretrained_tokenizer import PretrainedTokenizer


def add_parser(subparsers: Any) -> None:
    """Mount ``hope convert`` on the main command."""
    cli.add_parser(subparsers, _chat)


def _chat(template: str, tokenizer: PretrainedTokenizer, tokens: TurnTokens) -> Callable[[str], list[int]]:
    from hope_server.models import ask_in_template

    return ask_in_template(template, tokenizer, tokens)
