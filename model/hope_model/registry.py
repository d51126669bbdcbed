"""Registries of named parts: one file and one line each, imported on first use."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from hope_model.errors import ConfigError


class Registry(Mapping[str, Any]):
    """Maps a name to a class given as ``"module:Class"``.

    >>> Registry("rule", {"delta": "hope_model.rules.delta:DeltaRule"})["delta"].__name__
    'DeltaRule'
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self._kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        try:
            module, _, attribute = self._entries[name].partition(":")
        except KeyError:
            known = ", ".join(sorted(self._entries))
            raise ConfigError(f"unknown {self._kind} {name!r}; known: {known}") from None
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
