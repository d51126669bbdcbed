"""Where the encryption keys come from: a file, an environment variable, or a file of our own making.

Text: one key a line (in the variable: separated by blanks or commas), 64 hex digits each, oldest first; what
follows a ``#`` is a remark. All keys open, the last one seals: to rotate, add a line and restart; remove the
old line once nothing is left that it sealed.
"""

import os
import re
import secrets
from pathlib import Path

from hope_server import private_file
from hope_server.errors import StartupError
from hope_server.sessions.sealing import KEY_BYTES, Keyring

KEYS_VARIABLE = "HOPE_ENCRYPTION_KEYS"
FILE_NAME = "encryption.keys"
MAX_KEYS = 64
_KEY = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", re.IGNORECASE)


def find_keys(file: Path | None, data_dir: Path) -> Keyring:
    """The keys of ``file``, else of the variable, else of ``encryption.keys`` in ``data_dir``.

    The last one is made at the first start, with mode 0600. Raises ``StartupError`` naming the setting.
    """
    if file is not None:
        return _read(file)
    if text := os.environ.get(KEYS_VARIABLE):
        return parse_keys(text, KEYS_VARIABLE)
    return _read(_own_file(data_dir))


def parse_keys(text: str, source: str) -> Keyring:
    """The keys in ``text``; ``source`` names it in the error. A key is never repeated in a message."""
    lines = (line.partition("#")[0] for line in text.splitlines())
    found = [key for line in lines for key in re.split(r"[\s,]+", line) if key]
    if not 1 <= len(found) <= MAX_KEYS or not all(map(_KEY.fullmatch, found)):
        message = (
            f"{source}: expected 1 to {MAX_KEYS} keys of {2 * KEY_BYTES} hex digits, found something else"
        )
        raise StartupError(message, param="encryption_key_file")
    return Keyring([bytes.fromhex(key) for key in found])


def _read(file: Path) -> Keyring:
    try:
        content = private_file.read(file, param="encryption_key_file")
    except OSError as error:
        message = f"{file}: cannot be read: {error.strerror}"
        raise StartupError(message, param="encryption_key_file") from error
    return parse_keys(content.decode("ascii", errors="replace"), str(file))


def _own_file(data_dir: Path) -> Path:
    """Made whole or not at all; of several servers that start at once, the first one's file stays."""
    file = data_dir / FILE_NAME
    if file.exists():
        return file
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.create(file, f"{secrets.token_hex(KEY_BYTES)}\n".encode())
    except OSError as error:
        message = f"data_dir {data_dir} cannot be used: {error.strerror}"
        raise StartupError(message, param="data_dir") from error
    return file
