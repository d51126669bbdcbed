"""The conversations from which a chat template is learned, and the texts that stand in for messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from hope_server.chat.format import Message

START, ANSWER = "start", "answer"
"""What stands before the first message, and after the last one."""

Step = tuple[str, str]
"""Two neighbours of a conversation: roles, or START and a role, or a role and ANSWER."""

PAD = "\n \t"
"""White space around a text; no template begins what it writes after a text with the end of this."""

_ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
_USUAL = (
    # A chat, also one that is long: some templates drop its beginning.
    ("u", "uau", "uauau", "ua" * 20 + "u"),
    ("su", "suau", "suauau", "s" + "ua" * 20 + "u"),
    ("uat", "uatt", "uatau", "uattau", "uatatau", "uatauatau", "suatau"),
)
_WAYS = {START: ("",), "a": ("ua", "uaua"), "u": ("u", "uau"), "t": ("uat", "uauat"), "s": ("s", "uas")}
"""How a conversation comes to a message of each role."""
_ENDS = {"s": ("su",), "u": ("u", "uau"), "a": ("au",), "t": ("t", "tau"), ANSWER: ("",)}
"""How it goes on with one, in ways that most templates allow."""


def groups() -> Iterator[tuple[tuple[str, ...], ...]]:
    """Groups of conversations, as their roles; the first group is what every chat needs.

    Each later group adds a kind of conversation that a template may do without: first the usual ones, then
    one for every step, in a way that the template has shown to allow up to there.
    """
    for group in _USUAL:
        yield tuple(_named(letters) for letters in group)
    for before, ways in _WAYS.items():
        for after, ends in _ENDS.items():
            if (before, after) != (START, ANSWER):
                yield tuple(_named(way + end) for way in ways for end in ends)


def steps(roles: Sequence[str]) -> tuple[Step, ...]:
    """The steps of a conversation, one more than it has messages."""
    return tuple(pairwise((START, *roles, ANSWER)))


def stand_in(nonce: str, index: int) -> str:
    """A text that no template contains and that shows what is done to it: cases, spaces, lines, escapes."""
    return f"{nonce}.{index}: Ab  cD\n\n\n<&'\"\\> {{{{x}}}} é🙂 {index}.{nonce}"


def stand_ins(nonce: str, roles: Sequence[str], *, pad: str = "") -> list[Message]:
    """The conversation of `roles` with a stand-in for each text, `pad` around it."""
    return [Message(role, pad + stand_in(nonce, index) + pad) for index, role in enumerate(roles)]


def _named(letters: str) -> tuple[str, ...]:
    return tuple(_ROLES[letter] for letter in letters)
