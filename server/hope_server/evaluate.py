"""``hope eval`` with the server's models: known names, and chats as the server writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hope_model.evaluate import cli

if TYPE_CHECKING:
    from hope_model.attention.checkpoint import AttentionCheckpoint
    from hope_model.evaluate import conversation
    from hope_model.evaluate.sessions.asking import ServedSubject
    from hope_server.sessions.session import Origin


def add_parser(subparsers: Any) -> None:
    """Mount ``hope eval`` on the main command."""
    cli.add_parser(subparsers, find, render_of, open_server)


def find(name: str) -> Path:
    """The folder of a model by name, or a folder itself; a known model is converted on first use."""
    from hope_server.models import find_folder

    return find_folder(name)


@contextmanager
def open_server(url: str, key: str | None) -> Iterator[ServedSubject]:
    """What the server at ``url`` serves, through its API."""
    from hope_server.evaluate_remote import open_server

    with open_server(url, key) as served:
        yield served


def render_of(checkpoint: AttentionCheckpoint) -> conversation.Render:
    """How the server writes chats with a checkpoint that has a chat template."""
    from hope_server.chat import LastToken, Message
    from hope_server.models import chat_format

    form = chat_format(checkpoint)

    def render(
        messages: Sequence[conversation.Message], after: conversation.LastToken | None
    ) -> list[conversation.Part]:
        last = None if after is None else LastToken(after.token, cast("Origin", after.origin))
        parts = form.render([Message(*message) for message in messages], after=last)
        return [(part.origin, part.tokens) for part in parts]

    return render
