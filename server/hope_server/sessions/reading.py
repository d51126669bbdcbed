"""Takes fields off bytes, none of which can be trusted."""

import struct
from typing import Any

Buffer = bytes | bytearray | memoryview


class Reader:
    """Raises ``ValueError`` where the bytes end too early or too late; allocates only what is there."""

    def __init__(self, data: Buffer, at: int = 0) -> None:
        self._data, self.at = data, at

    def raw(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        left = len(self._data) - self.at
        if size > left:
            raise ValueError(f"expected {size} more bytes, found {left}")
        self.at += size
        return bytes(self._data[self.at - size : self.at])

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The fields of ``layout``."""
        return layout.unpack(self.raw(layout.size))

    def end(self) -> None:
        """Nothing may be left."""
        if self.at != len(self._data):
            raise ValueError(f"expected {self.at} bytes, found {len(self._data)}")
