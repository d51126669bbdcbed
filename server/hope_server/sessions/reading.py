"""Takes fields off bytes, none of which can be trusted."""

import struct
from typing import Any


class Reader:
    """Raises ``ValueError`` where the bytes end too early or too late; allocates only what is there."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def raw(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        left = len(self._data) - self._at
        if size > left:
            raise ValueError(f"expected {size} more bytes, found {left}")
        self._at += size
        return self._data[self._at - size : self._at]

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The fields of ``layout``."""
        return layout.unpack(self.raw(layout.size))

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise ValueError(f"expected {self._at} bytes, found {len(self._data)}")
