"""Dialogue rows ("User: ...", "Assistant: ...") as chat messages."""

from __future__ import annotations

import re

from hope_model.errors import DataError

Message = tuple[str, str]
_SPEAKERS = {"User": "user", "Assistant": "assistant", "User 1": "user", "User 2": "assistant"}
# The model answers as the second person of a persona chat, so that person's profile is its own.
_PROFILES = {"About user 1": "About the user", "About user 2": "About you"}
_RULER = " \t*-_"
# Some rows carry their speakers in Markdown: "*User 1:* Hi!", "* User 1: Hi! *".
_MARKED = re.compile(rf"[*\s]*(?P<speaker>{'|'.join([*_PROFILES, *_SPEAKERS])}):[*\s]*(?P<text>.*?)[*\s]*$")


def parse_dialogue(text: str) -> list[Message]:
    """Turn a row into (role, text) messages; profile lines become one system message in front.

    A line without a speaker continues the message before it, or opens the user's first message after a
    profile. A message without text is left out. Raises DataError when nothing says who speaks first, or
    nobody speaks.
    """
    system: list[str] = []
    messages: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        match = _MARKED.match(line)
        speaker = match["speaker"] if match else ""
        if match and speaker in _PROFILES:
            system.append(f"{_PROFILES[speaker]}: {match['text']}")
        elif match:
            messages.append((_SPEAKERS[speaker], [match["text"]]))
        elif messages:
            messages[-1][1].append(line)
        elif line.strip(_RULER) and system:
            messages.append(("user", [line]))
        elif line.strip(_RULER):
            raise DataError(f"expected a line that starts with a speaker, found {line[:40]!r}")
    spoken = [(role, "\n".join(lines).strip()) for role, lines in messages]
    spoken = [message for message in spoken if message[1]]
    if not spoken:
        raise DataError("expected at least one message, found none")
    return [("system", "\n".join(system)), *spoken] if system else spoken
