"""Typed reading of untrusted settings: config.json of a model, the header of a GGUF file."""

from collections.abc import Mapping
from typing import Any, TypeVar

from hope_model.errors import ConversionError

T = TypeVar("T")


class Fields:
    """Settings by name; null counts as absent. Every getter raises ConversionError, which names the field."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def get(self, name: str) -> Any:
        """The value as it was read, or None."""
        return self._values.get(name)

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._typed(name, (int,), "an integer", default))

    def number(self, name: str, default: float | None = None) -> float:
        value = self._typed(name, (int, float), "a number", default)
        try:
            return float(value)
        except OverflowError as error:  # an integer of hundreds of digits
            raise self.refusal(name, "a number", value) from error

    def flag(self, name: str, default: bool | None = None) -> bool:
        return bool(self._typed(name, (bool,), "true or false", default))

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._typed(name, (str,), "a text", default))

    def items(self, name: str, kind: type[T]) -> list[T]:
        """A list whose items are all of ``kind``."""
        value = self._typed(name, (list,), "a list", None)
        for item in value:
            if type(item) is not kind:
                raise self.refusal(name, f"a list of {kind.__name__}", item)
        return list(value)

    def group(self, name: str) -> "Fields":
        """The fields of an object; empty where it is absent."""
        return Fields(self._typed(name, (dict,), "an object", {}), f"{self._where}: {name}")

    def refusal(self, name: str, expected: str, found: object) -> ConversionError:
        """The error to raise for a field that holds ``found``."""
        return ConversionError(f"{self._where}: {name}: expected {expected}, found {str(found)[:80]!r}")

    def _typed(self, name: str, kinds: tuple[type, ...], expected: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            if default is None:
                raise ConversionError(f"{self._where}: {name}: expected {expected}, found none")
            return default
        if type(value) not in kinds:  # not isinstance: true and false are integers there
            raise self.refusal(name, expected, value)
        return value
