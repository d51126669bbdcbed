"""API keys: what a caller presents, and what is kept of it.

A key is `hk_<id>_<secret>`: the id is public and names it in listings, the secret is 32 random bytes. Kept is
HMAC-SHA-256 of both under a secret of the server's own, so that the key file alone opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hope_server.sessions.key import TENANT_PATTERN

SECRET_BYTES = 32
_KEY = re.compile(r"hk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_DOMAIN = b"hope api key v1\0"
_NO_MAC = "0" * 64


class KeyRecord(BaseModel):
    """What is kept of one key. `tenant` None: an operator's key, which reads figures and no session."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    tenant: Annotated[str, Field(pattern=f"^{TENANT_PATTERN}$")] | None
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: Annotated[int, Field(ge=0)]
    revoked_at: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `tenant` None: nobody's sessions. `operator`: may read the server's figures.

    `metered`: held to a quota.
    """

    tenant: str | None
    operator: bool = False
    metered: bool = True


class KeyRing:
    """The keys of one moment, with the secret that they are hashed under."""

    def __init__(self, records: Iterable[KeyRecord], secret: bytes) -> None:
        self._records = {record.id: record for record in records}
        self._secret = secret

    @property
    def active(self) -> int:
        """Keys that are not revoked."""
        return sum(record.revoked_at is None for record in self._records.values())

    def caller(self, presented: str) -> Caller | None:
        """Whose key this is; None for a key that is malformed, unknown or revoked.

        The comparison takes the same time wherever the two differ, and is made for unknown ids too.
        """
        found = _KEY.fullmatch(presented)
        if found is None:
            return None
        record = self._records.get(found[1])
        equal = hmac.compare_digest(record.mac if record else _NO_MAC, _mac(presented, self._secret))
        if record is None or not equal or record.revoked_at is not None:
            return None
        return Caller(record.tenant, operator=record.tenant is None)


def new_key(tenant: str | None, secret: bytes, *, now: int) -> tuple[KeyRecord, str]:
    """A new key: what is kept of it, and what its owner is shown once."""
    key_id = secrets.token_hex(8)
    key = f"hk_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return KeyRecord(id=key_id, tenant=tenant, mac=_mac(key, secret), created_at=now), key


def _mac(key: str, secret: bytes) -> str:
    return hmac.new(secret, _DOMAIN + key.encode(), hashlib.sha256).hexdigest()
