"""Who may call: decided for every request, by the keys as they stand at that moment."""

from __future__ import annotations

import ipaddress
import logging
import re

from hope_server.errors import Forbidden, HopeError, KeysUnavailable, Unauthorized
from hope_server.sessions.key import DEFAULT_TENANT
from hope_server.tenants.api_key import Caller, KeyRing
from hope_server.tenants.key_file import KeyFile

logger = logging.getLogger("hope.gate")

ANYBODY = Caller(DEFAULT_TENANT, operator=True, metered=False)
"""The caller of a server without keys: somebody on this machine, to whom all of it belongs."""
_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class Gate:
    """Without a key file this machine alone may call; with one, whoever holds a key that is in force.

    A file that was there once stays required: neither revoking the last key nor losing the file opens the
    server.
    """

    def __init__(self, keys: KeyFile) -> None:
        self._keys = keys
        self._version: object = None
        self._ring: KeyRing | None = None
        self._failure: HopeError | None = None
        self._closed = False

    def caller(self, authorization: list[str], *, client: str, host: str) -> Caller:
        """Who sent a request with these headers from the address `client`.

        Raises:
            Unauthorized: No key, or none that is in force.
            Forbidden: There are no keys, and the caller is not on this machine.
            KeysUnavailable: The key file cannot be read.
        """
        self._refresh()
        if self._closed:
            return self._holder(authorization)
        _require_this_machine(client, host)
        return ANYBODY

    def _refresh(self) -> None:
        """One look at the file's dates for each request; its content is read when they changed."""
        try:
            version = self._keys.version()
            if version == self._version and self._failure is None:
                return
            ring = self._keys.read()
        except HopeError as error:
            if str(error) != str(self._failure):
                logger.error("nobody is let in: %s", error)
            self._closed, self._ring, self._failure = True, None, error
            return
        self._version, self._ring, self._failure = version, ring, None
        self._closed |= ring is not None

    def _holder(self, authorization: list[str]) -> Caller:
        if self._failure is not None:
            raise KeysUnavailable("the server cannot read its keys")
        if not authorization:
            raise Unauthorized(
                "expected the header Authorization: Bearer KEY, found none", code="missing_api_key"
            )
        bearer = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        caller = self._ring.caller(bearer[1]) if bearer and self._ring else None
        if caller is None:
            raise Unauthorized("the API key is not one that this server knows")
        return caller


def _require_this_machine(client: str, host: str) -> None:
    """Nor may a web page call: its own name may point at this machine, but then `host` shows that name."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    foreign = "." in name.rstrip(".") and not is_loopback(name) and not name.lower().endswith(".localhost")
    if foreign or not is_loopback(client):
        raise Forbidden(
            "there is no API key here, so that only this machine may call, under a name of its own",
            code="loopback_only",
        )


def is_loopback(host: str) -> bool:
    """Whether an address (or the name localhost) is this machine's own."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
