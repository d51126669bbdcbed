"""GET / and /static/…: the web page. Its files are read once, when the server starts."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import PurePath

from fastapi import APIRouter, Request
from starlette.responses import Response

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Of the files that are served; a note beside them is not."""
INDEX = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, and no way from a text to markup."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent, whole and compressed."""

    content: bytes
    compressed: bytes
    media_type: str
    etag: str


def _read() -> dict[str, PageFile]:
    found = {}
    for entry in (resources.files("hope_server") / "static").iterdir():
        suffix = PurePath(entry.name).suffix
        if suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            path = "/" if entry.name == INDEX else f"/static/{entry.name}"
            etag = f'"{sha256(content).hexdigest()[:32]}"'
            found[path] = PageFile(content, gzip.compress(content, mtime=0), MEDIA_TYPES[suffix], etag)
    return found


FILES = _read()
"""By path. Whoever asks gets them: the page itself says nothing of anybody, and asks for the key."""

router = APIRouter(include_in_schema=False)


async def _file(request: Request) -> Response:
    file = FILES[request.scope["path"]]
    headers = {
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "etag": file.etag,
        "vary": "accept-encoding",
    }
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    accepted = {
        part.partition(";")[0].strip() for part in request.headers.get("accept-encoding", "").split(",")
    }
    if "gzip" in accepted:
        headers["content-encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)


for _path in FILES:
    router.add_api_route(_path, _file, methods=["GET", "HEAD"])
