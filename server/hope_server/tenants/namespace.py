"""Where a tenant becomes a part of its sessions' names."""

from __future__ import annotations

import re

from hope_server.sessions.store import require_session_id

DEFAULT_TENANT = "default"
"""The tenant of a server that authenticates nobody."""
TENANT_PATTERN = r"[a-z0-9][a-z0-9-]{0,30}"
"""No underscore: the first one in a name ends the tenant."""


def is_tenant(name: str) -> bool:
    """Whether `name` can be a tenant's: 1 to 31 lower-case letters, digits or `-`."""
    return re.fullmatch(TENANT_PATTERN, name) is not None


def session_name(tenant: str, session_id: str) -> str:
    """What engine and store call the tenant's session `session_id`: the one place where the two are joined.

    Raises SessionNotFound for an id that no session can have.
    """
    return require_session_id(f"{tenant}_{session_id}")


def session_id_of(tenant: str, name: str) -> str | None:
    """The id that `session_name` made `name` of; None if the session is another tenant's."""
    prefix = f"{tenant}_"
    return name.removeprefix(prefix) if name.startswith(prefix) else None
