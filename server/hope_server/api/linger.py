"""Answering before the request has been read: closing at once would reset the connection under the answer."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Send

LINGER_S = 2.0
LINGER_BYTES = 16 << 20


async def send_and_linger(response: Response, receive: Receive, send: Send) -> None:
    """Send `response`, read and drop what the client still sends for a bounded time and size, then close."""
    headers = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    try:
        async with asyncio.timeout(LINGER_S):
            await _drop(receive)
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop(receive: Receive) -> None:
    left = LINGER_BYTES
    while left > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))
