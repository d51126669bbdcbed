"""The keys on disk: `keys.json` and, apart from it, the secret that they are hashed under.

A file and not the store: whoever can write sessions must not be able to make keys, keys can be made before a
server runs, and a server beside its own Valkey needs nothing else. Servers that share a Redis mount the same
directory.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hope_server import private_file
from hope_server.errors import StartupError
from hope_server.tenants.api_key import SECRET_BYTES, KeyRecord, KeyRing, new_key

MAX_KEYS = 10_000


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = 1
    keys: Annotated[list[KeyRecord], Field(max_length=MAX_KEYS)] = []


class KeyFile:
    """The keys in `directory`, which is made with the first key. All errors are StartupError."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._keys = directory / "keys.json"
        self._secret = directory / "keys.secret"
        self._clock = clock

    def version(self) -> object:
        """Changes with every change of the keys; None while there never was one."""
        with _as_startup_errors(self.directory):
            return private_file.version(self._keys)

    def read(self) -> KeyRing | None:
        """The keys as they stand; None if there never was one."""
        with _as_startup_errors(self.directory):
            if private_file.version(self._keys) is None:
                return None
            return KeyRing(self._records(), self._read_secret())

    def records(self) -> list[KeyRecord]:
        """Every key, revoked ones too, in the order of their making."""
        with _as_startup_errors(self.directory):
            return self._records()

    def create(self, tenant: str | None) -> tuple[KeyRecord, str]:
        """A new key of `tenant` (None: of the operator), in force at once; the second is shown once."""
        with _as_startup_errors(self.directory), private_file.locked(self.directory):
            records = self._records()
            if len(records) >= MAX_KEYS:
                raise StartupError(f"{self._keys}: expected at most {MAX_KEYS} keys", param="keys_dir")
            if private_file.version(self._secret) is None:
                private_file.replace(self._secret, secrets.token_bytes(SECRET_BYTES))
            record, key = new_key(tenant, self._read_secret(), now=int(self._clock()))
            self._write([*records, record])
            return record, key

    def revoke(self, key_id: str) -> KeyRecord:
        """End a key, at once. It stays listed, so that a server whose keys are all revoked lets nobody in."""
        with _as_startup_errors(self.directory), private_file.locked(self.directory):
            records = self._records()
            found = next((record for record in records if record.id == key_id), None)
            if found is None:
                raise StartupError(f"expected the id of a key (hope keys list), found {key_id[:40]!r}")
            if found.revoked_at is not None:
                return found
            ended = found.model_copy(update={"revoked_at": int(self._clock())})
            self._write([ended if record is found else record for record in records])
            return ended

    def _records(self) -> list[KeyRecord]:
        try:
            content = private_file.read(self._keys, param="keys_dir")
        except FileNotFoundError:
            return []
        try:
            return _Content.model_validate_json(content).keys
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise StartupError(
                f"{self._keys}: not a key file: {place} {first['msg']}", param="keys_dir"
            ) from None

    def _read_secret(self) -> bytes:
        content = private_file.read(self._secret, param="keys_dir")
        if len(content) != SECRET_BYTES:
            found = len(content)
            raise StartupError(
                f"{self._secret}: expected {SECRET_BYTES} bytes, found {found}", param="keys_dir"
            )
        return content

    def _write(self, records: list[KeyRecord]) -> None:
        private_file.replace(self._keys, _Content(keys=records).model_dump_json(indent=1).encode() + b"\n")


@contextlib.contextmanager
def _as_startup_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{error.filename or directory}: cannot be used: {error.strerror}"
        raise StartupError(message, param="keys_dir") from error
