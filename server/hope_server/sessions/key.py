"""The name of a session: whose it is, and which one. Every key, lock and checksum is made from both."""

import re
from dataclasses import dataclass

from hope_server.errors import SessionNotFound

DEFAULT_TENANT = "default"
"""The tenant of a server that authenticates nobody."""

TENANT_PATTERN = r"[a-z0-9][a-z0-9-]{0,30}"
"""No two tenants look alike but for their case, and none looks like a flag."""

_TENANT = re.compile(TENANT_PATTERN)
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_tenant(name: str) -> bool:
    """Whether ``name`` can be a tenant's: 1 to 31 lower-case letters, digits or ``-``."""
    return _TENANT.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, order=True)
class SessionKey:
    """One session of one tenant; the session is 1 to 64 letters, digits, ``_`` or ``-``.

    Raises ``ValueError`` for an unfit tenant, which the server chose, and ``SessionNotFound`` for an unfit
    session, which a caller may have sent: no session can have that name.
    """

    tenant: str
    session: str

    def __post_init__(self) -> None:
        if not is_tenant(self.tenant):
            raise ValueError(
                f"expected a tenant of 1 to 31 lower-case letters, digits or -, found {self.tenant!r}"
            )
        if not _SESSION.fullmatch(self.session):
            raise SessionNotFound("there is no session with this id")

    def __str__(self) -> str:
        """``tenant/session``: no two keys have the same text."""
        return f"{self.tenant}/{self.session}"
