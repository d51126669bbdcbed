"""How chats become tokens: one seam, `ChatFormat`, with an implementation for each kind of checkpoint."""

from hope_server.chat.format import ChatFormat, LastToken, Message, TextTokenizer
from hope_server.chat.jinja import JinjaFormat, TemplateTokenizer
from hope_server.chat.native import NativeFormat, NativeTokenizer
from hope_server.chat.template import ChatTemplate, learn

__all__ = [
    "ChatFormat",
    "ChatTemplate",
    "JinjaFormat",
    "LastToken",
    "Message",
    "NativeFormat",
    "NativeTokenizer",
    "TemplateTokenizer",
    "TextTokenizer",
    "learn",
]
