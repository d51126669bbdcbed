"""What a tenant may use: one file, `quotas.toml` beside the keys, followed without a restart.

[default]                     # for every tenant; what is left out is as below
tokens_per_minute = 60_000

[tenants.acme]                # over the default, for one
sessions = 100
"""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hope_server import private_file
from hope_server.errors import StartupError
from hope_server.sessions.key import TENANT_PATTERN

logger = logging.getLogger("hope.quota")

FILE_NAME = "quotas.toml"
MAX_FILE_BYTES = 4 << 20
MAX_TENANTS = 10_000
MAX_COUNT = 10**15

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Quota(BaseModel):
    """Of one tenant. Turns and tokens are counted by each server process, sessions and bytes in the store.

    sessions: Durable sessions at once.
    stored_bytes: Bytes of them, as `stored.py` counts.
    tokens_per_minute: Tokens read and generated; a turn may begin while the tenant is not in debt.
    concurrent_turns: Turns that run or wait.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    sessions: Count = 10_000
    stored_bytes: Count = 32 << 30
    tokens_per_minute: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1_000_000
    concurrent_turns: Count = 64


class Quotas(BaseModel):
    """The file: a quota for everybody, and what differs for single tenants."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    default: Quota = Quota()
    tenants: Annotated[
        dict[Annotated[str, Field(pattern=f"^{TENANT_PATTERN}$")], Quota], Field(max_length=MAX_TENANTS)
    ] = {}

    def of(self, tenant: str) -> Quota:
        """The tenant's own numbers over the default ones."""
        own = self.tenants.get(tenant)
        return (
            self.default
            if own is None
            else self.default.model_copy(update=own.model_dump(exclude_unset=True))
        )


class QuotaFile:
    """The quotas in force. A file that becomes unreadable changes nothing and is logged; see `check`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._version: object = None
        self._quotas = Quotas()

    def check(self) -> None:
        """Raises StartupError unless there is no file, or one that fits."""
        self._quotas = self._read()

    def of(self, tenant: str) -> Quota:
        """The quota of `tenant` at this moment."""
        version = private_file.version(self._path)
        if version != self._version:
            self._version = version
            try:
                self._quotas = self._read()
            except StartupError as error:
                logger.error("the quotas stay as they were: %s", error)
        return self._quotas.of(tenant)

    def _read(self) -> Quotas:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return Quotas()
        except OSError as error:
            raise StartupError(f"{self._path}: cannot be read: {error.strerror}", param="keys_dir") from error
        if len(content) > MAX_FILE_BYTES:
            raise StartupError(f"{self._path}: expected at most {MAX_FILE_BYTES} bytes", param="keys_dir")
        try:
            return Quotas.model_validate(tomllib.loads(content.decode()))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise StartupError(f"{self._path}: {place}: {first['msg']}", param="keys_dir") from None
        except ValueError as error:
            raise StartupError(f"{self._path}: not TOML: {error}", param="keys_dir") from None
