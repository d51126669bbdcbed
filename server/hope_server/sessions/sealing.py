"""Every stored value is sealed with AES-256-GCM, bound to the place that it is stored at.

Sealed: ``version u8 | key id 8 | nonce 12 | ciphertext | tag 16``, with the associated data
``tenant|session|kind|place``. A value that is damaged, or that stood at another place (of another tenant,
session, kind or sequence number), does not open. Nonces are random: a key may seal 2**32 values.
"""

import hmac
import os
import secrets
from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hope_server.errors import EncryptionKeyMissing
from hope_server.sessions.key import SessionKey

KEY_BYTES: Final = 32
OVERHEAD_BYTES: Final = 37
_VERSION: Final = 1
_ID_BYTES, _NONCE_BYTES = 8, 12
_NONCES_DRAWN: Final = 256


class Tampered(Exception):
    """Not the value that was sealed for this place; never leaves the sessions package."""


class Keyring:
    """Keys of 32 bytes, oldest first: all of them open, the last one seals.

    A key's id is made from the key itself, so two servers agree on the ids of the keys that they share.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"expected one or more keys of {KEY_BYTES} bytes")
        self._ciphers = {_derived(key, b"id")[:_ID_BYTES]: AESGCM(key) for key in keys}
        self._newest = _derived(keys[-1], b"id")[:_ID_BYTES]
        self._digest_keys = [_derived(key, b"digest") for key in reversed(keys)]
        self._nonces = _Nonces()

    def seal(self, session: SessionKey, kind: str, place: int | str, data: bytes) -> bytes:
        """``data`` for the place of ``kind`` in ``session``; 37 bytes longer."""
        nonce = self._nonces.take()
        sealed = self._ciphers[self._newest].encrypt(nonce, data, _bound(session, kind, place))
        return bytes([_VERSION]) + self._newest + nonce + sealed

    def unseal(self, session: SessionKey, kind: str, place: int | str, sealed: bytes) -> bytes:
        """What was sealed; raises ``Tampered``, ``EncryptionKeyMissing`` for a key that is not here."""
        if len(sealed) < OVERHEAD_BYTES or sealed[0] != _VERSION:
            raise Tampered("not a sealed value")
        key_id, rest = sealed[1 : 1 + _ID_BYTES], sealed[1 + _ID_BYTES :]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise EncryptionKeyMissing(
                f"a stored value needs the encryption key {key_id.hex()}, which is not here"
            )
        try:
            return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _bound(session, kind, place))
        except InvalidTag:
            raise Tampered("a sealed value that does not open") from None

    def names(self, session: SessionKey, kind: str, text: bytes) -> list[str]:
        """Hex digests that stand for ``text`` without telling it, one a key, the newest key's first."""
        bound = _bound(session, kind, sha256(text).hexdigest())
        return [sha256(key + bound).hexdigest() for key in self._digest_keys]

    def tag(self, digest: bytes) -> bytes:
        """32 bytes that only a holder of the newest key can make for ``digest``."""
        return _tag(self._digest_keys[0], digest)

    def is_tagged(self, digest: bytes, tag: bytes) -> bool:
        """Whether one of the keys made ``tag`` for ``digest``."""
        return any(hmac.compare_digest(_tag(key, digest), tag) for key in self._digest_keys)

    @property
    def ids(self) -> list[str]:
        """The hex ids of the keys, oldest first."""
        return [key_id.hex() for key_id in self._ciphers]


class _Nonces:
    """Random bytes, drawn for many nonces at once: each draw gives the interpreter's lock away, and whoever
    commits while the engine computes waits to get it back. None is given twice, nor to a forked process.
    """

    def __init__(self) -> None:
        self._drawn: deque[bytes] = deque()
        os.register_at_fork(after_in_child=self._drawn.clear)

    def take(self) -> bytes:
        """12 bytes; by any thread."""
        while True:
            try:
                return self._drawn.popleft()
            except IndexError:
                drawn = secrets.token_bytes(_NONCE_BYTES * _NONCES_DRAWN)
                starts = range(0, len(drawn), _NONCE_BYTES)
                self._drawn.extend(drawn[start : start + _NONCE_BYTES] for start in starts)


def _tag(key: bytes, digest: bytes) -> bytes:
    return hmac.digest(key, b"export" + digest, "sha256")


def _derived(key: bytes, purpose: bytes) -> bytes:
    return sha256(b"hope-serve " + purpose + key).digest()


def _bound(session: SessionKey, kind: str, place: int | str) -> bytes:
    return f"{session.tenant}|{session.session}|{kind}|{place}".encode()
