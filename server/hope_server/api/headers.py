"""Headers of every answer, whoever writes it."""

from __future__ import annotations

SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""An answer is for its caller alone, is data and never a page. A route may set its own value of one."""
