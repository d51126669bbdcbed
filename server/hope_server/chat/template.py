"""A Jinja chat template as what it writes between the texts of messages, learned once and checked.

What a template writes between two texts depends, for the templates in use, on the roles on both sides alone:
the header of the first message and of later ones, the end of a message, the opening of an answer. It is
learned from renderings of stand-in texts, so that no template runs while requests are served, and checked on
conversations of many shapes. A template that does not keep to it is refused, or the kind of conversation in
which it does not. What a template decides by the text of a message (to drop the reasoning of earlier answers,
or a message without text) is not seen: a session has read its messages as they were.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from hope_server.chat.probes import PAD, Step, groups, stand_in, stand_ins, steps
from hope_server.chat.sandbox import CPU_S, Rendering, render_all
from hope_server.errors import ChatTemplateError

_NEEDED = frozenset(step for roles in next(groups()) for step in steps(roles))
_DATE_MARKS = "\ue000\ue001"
_SHOWN_CHARS = 80


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _unchanged(text: str) -> str:
    return text


def _without_first_lines(text: str) -> str:
    return text.lstrip("\n")


Form = Callable[[str], str]
_FORMS: tuple[Form, ...] = (_unchanged, _without_first_lines, str.lstrip, str.rstrip, str.strip, _as_json)
"""What a template may do to a text. Where two fit the beginning of a rendering, the longer comes first."""
_OTHER_FORM = "it changes the white space around texts in a way of its own"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """What a template writes.

    gaps: between the texts of two neighbours, by their roles; dates are marked.
    forms: what becomes of a message's text, by its role; none for a role that is always refused.
    refused: the other steps, and why it does not allow them.
    dates: finds the marks of dates; group 1 is the format.
    """

    gaps: Mapping[Step, str]
    forms: Mapping[str, Form]
    refused: Mapping[Step, str]
    dates: re.Pattern[str]

    def gap(self, step: Step, now: datetime) -> str | None:
        """The text of a step, None if it is not allowed."""
        text = self.gaps.get(step)
        return None if text is None else self.dates.sub(lambda found: now.strftime(found[1]), text)


def learn(source: str, *, bos_token: str | None, eos_token: str | None, cpu_s: int = CPU_S) -> ChatTemplate:
    """Learn a Jinja template, as transformers reads it, in less than a second of a process of its own.

    Args:
        source: The content of chat_template.jinja.
        bos_token: What the template knows by this name; None if the tokenizer has none.
        eos_token: Likewise.
        cpu_s: Seconds of processor time that it may take.

    Raises:
        ChatTemplateError: It is no template, it takes too much, or with it a chat of user and assistant is
            not the chat up to the turn before with more at its end.
    """
    nonce = secrets.token_hex(8)
    shapes = list(dict.fromkeys(roles for group in groups() for roles in group))
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    chats = [stand_ins(nonce, roles, pad=pad) for roles in shapes for pad in ("", PAD)]
    given = {name: text for name, text in tokens.items() if text is not None}
    rendered = render_all(source, chats, nonce=nonce, variables=given, cpu_s=cpu_s)
    known = _Lessons(nonce, dict(zip(shapes, zip(rendered[::2], rendered[1::2], strict=True), strict=True)))
    for group in groups():
        known.study(group)
    for group in groups():
        known.give_reasons(group)
    return ChatTemplate(known.gaps, known.forms, known.refused, known.dates)


class _Misfit(Exception):
    """Why a rendering is not what the earlier ones say."""


@dataclass
class _Lessons:
    """Goes from group to group. What a group shows counts as a whole or not at all."""

    nonce: str
    rendered: Mapping[Sequence[str], tuple[Rendering, Rendering]]
    gaps: dict[Step, str] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    refused: dict[Step, str] = field(default_factory=dict)

    @property
    def dates(self) -> re.Pattern[str]:
        return re.compile(f"{_DATE_MARKS[0]}{self.nonce}([^{_DATE_MARKS}]+){_DATE_MARKS[1]}")

    def study(self, group: Sequence[Sequence[str]]) -> None:
        """Learn the steps of a group. Where it does not fit, those that are new, or else all, are refused.

        Raises:
            ChatTemplateError: What remains would not be a chat.
        """
        gaps, forms = dict(self.gaps), dict(self.forms)
        possible = [roles for roles in group if self.refused.keys().isdisjoint(steps(roles))]
        try:
            for roles in possible:
                self._read(roles)
        except _Misfit as misfit:
            blamed = {step for roles in possible for step in steps(roles)} - _NEEDED
            blamed = blamed - gaps.keys() or blamed
            if not blamed:
                raise ChatTemplateError(f"chat template: {misfit}") from None
            self.gaps = {step: gap for step, gap in gaps.items() if step not in blamed}
            self.forms = forms
            self.refused |= dict.fromkeys(blamed, str(misfit))

    def give_reasons(self, group: Sequence[Sequence[str]]) -> None:
        """Refuse what could not be learned because the way to it is refused."""
        for roles in group:
            reason = next((self.refused[step] for step in steps(roles) if step in self.refused), "")
            for step in steps(roles):
                if step not in self.gaps:
                    self.refused.setdefault(step, reason)

    def _read(self, roles: Sequence[str]) -> None:
        plain, padded = self.rendered[tuple(roles)]
        if plain.error or padded.error:
            raise _Misfit(plain.error or padded.error)
        for step, gap in zip(steps(roles), self._cut(roles, plain.text), strict=True):
            if self.gaps.setdefault(step, gap) != gap:
                between = f"between {step[0]} and {step[1]} it writes {_shown(self.gaps[step])}"
                raise _Misfit(f"it does not extend: {between} in one conversation, {_shown(gap)} in another")
        self._learn_forms(roles, padded.text)

    def _cut(self, roles: Sequence[str], text: str) -> list[str]:
        """What lies between the stand-ins."""
        gaps, at = [], 0
        for index, role in enumerate(roles):
            body = stand_in(self.nonce, index)
            shown = body if body in text else _as_json(body)
            start = text.find(shown)
            if start < 0 or text.find(shown, start + 1) >= 0:
                raise _Misfit(f"it does not pass the text of the {role} on, once and unchanged")
            if start < at:
                raise _Misfit(f"it does not extend: a text of the {role} comes before an earlier one")
            gaps.append(text[at:start])
            at = start + len(shown)
        gaps.append(text[at:])
        if any(mark in self.dates.sub("", gap) for gap in gaps for mark in (self.nonce, *_DATE_MARKS)):
            raise _Misfit("it takes a text or a date apart")
        return gaps

    def _learn_forms(self, roles: Sequence[str], text: str) -> None:
        """What becomes of white space around a text."""
        at = 0
        sent = stand_ins(self.nonce, roles, pad=PAD)
        for step, message in zip(steps(roles), sent, strict=False):
            at += len(self.gaps[step])
            fits = (form for form in _FORMS if text.startswith(form(message.text), at))
            form = next(fits, None)
            if form is None or self.forms.setdefault(message.role, form) is not form:
                raise _Misfit(_OTHER_FORM)
            at += len(form(message.text))
        if text[at:] != self.gaps[steps(roles)[-1]]:
            raise _Misfit(_OTHER_FORM)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
