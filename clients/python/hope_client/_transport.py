"""Where and how both clients connect unless told otherwise."""

import ssl

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"

# A long prompt may keep the first token waiting for minutes; a host that is not there shows at once.
DEFAULT_TIMEOUT = httpx.Timeout(600.0, connect=5.0)

# Shorter than the 5 s after which uvicorn closes an idle connection: a turn sent at that very moment would
# fail without our knowing whether the server had read it.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)


def tls_trust(base_url: httpx.URL) -> ssl.SSLContext | bool:
    """What httpx is to verify certificates with.

    Reading the certificate authorities takes longer than the whole rest of a short command, so a plain http
    address gets a context that trusts none: should TLS come up after all (an https proxy), it fails.
    """
    return True if base_url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
