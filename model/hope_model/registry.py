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
        self.require(name)
        module, _, attribute = self._entries[name].partition(":")
        return getattr(import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def require(self, name: object) -> None:
        """Raises ConfigError, with the known names, unless ``name`` is one of them."""
        if name not in self:
            known = ", ".join(sorted(self._entries))
            raise ConfigError(f"unknown {self._kind} {name!r}; known: {known}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
