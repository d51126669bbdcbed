"""Where a Redis server is, and who we are there, as a URL says it."""

import ssl
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from redis.asyncio.connection import parse_url

from hope_server.errors import StoreConfigError

_OPTIONS = {"db", "password", "username", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_PORT = 6379


@dataclass(frozen=True, slots=True)
class Address:
    """path: of a unix socket; None for a server at ``host`` and ``port``. credentials: a password, or a user
    and a password; empty for none. tls_files: an authority, a certificate and its key, each perhaps None;
    None where the connection is plain.
    """

    path: str | None = None
    host: str = "localhost"
    port: int = _PORT
    database: int = 0
    credentials: tuple[str, ...] = ()
    tls_files: tuple[str | None, str | None, str | None] | None = None

    @classmethod
    def of(cls, url: str) -> Self:
        """Of a URL that :func:`check_url` lets pass, as redis-py reads it."""
        found: dict[str, Any] = dict(parse_url(url))
        user, password = found.get("username") or "", found.get("password") or ""
        credentials = (user, password) if user else (password,)
        files = (found.get("ssl_ca_certs"), found.get("ssl_certfile"), found.get("ssl_keyfile"))
        return cls(
            path=found.get("path"),
            host=found.get("host") or "localhost",
            port=found.get("port") or _PORT,
            database=int(found.get("db") or 0),
            credentials=credentials if any(credentials) else (),
            tls_files=files if urlsplit(url).scheme == "rediss" else None,
        )

    def tls(self) -> ssl.SSLContext | None:
        """Which checks the server's name and certificate; None where the connection is plain."""
        if self.tls_files is None:
            return None
        authority, certificate, key = self.tls_files
        context = ssl.create_default_context()
        if authority is not None:  # beside the system's own, as redis-py takes it
            context.load_verify_locations(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context


def check_url(url: str) -> None:
    """Options could switch redis-py's resending on, so only the harmless ones pass."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise StoreConfigError("redis_url is not a URL with a valid port", param="redis_url") from error
    unknown = set(parse_qs(parts.query, keep_blank_values=True)) - _OPTIONS
    if unknown:
        known, found = ", ".join(sorted(_OPTIONS)), ", ".join(sorted(unknown))
        raise StoreConfigError(f"redis_url takes the options {known}, found {found}", param="redis_url")
