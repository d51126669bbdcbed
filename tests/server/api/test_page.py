"""The page's files as they are sent: whole, small, from here alone. What it does: tests/browser."""

from __future__ import annotations

import gzip
import re

import httpx
import pytest

from hope_server.api.headers import SECURITY_HEADERS
from hope_server.api.page import FILES, POLICY
from hope_server.tenants.key_file import KeyFile

MAX_BYTES = 150_000
"""Of script and style together, before compression."""


@pytest.mark.parametrize("path", FILES)
async def test_a_file(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == FILES[path].media_type
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cache-control"] == "no-cache"
    own = {"cache-control", "content-security-policy"}
    assert all(answer.headers[name] == text for name, text in SECURITY_HEADERS.items() if name not in own)
    head = await http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]
    assert head.headers["etag"] == answer.headers["etag"]


async def test_a_known_file_is_not_sent_again(http: httpx.AsyncClient) -> None:
    etags = {(await http.get(path)).headers["etag"] for path in FILES}
    assert len(etags) == len(FILES)
    etag = (await http.get("/")).headers["etag"]
    again = await http.get("/", headers={"If-None-Match": f'"other", W/{etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["content-security-policy"] == POLICY
    assert (await http.get("/", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_it_is_compressed_where_that_is_understood(http: httpx.AsyncClient) -> None:
    for accepted, encoding in (("br, gzip;q=0.5", "gzip"), ("identity", None), ("gzippy", None)):
        answer = await http.get("/static/main.js", headers={"Accept-Encoding": accepted})
        assert answer.headers.get("content-encoding") == encoding
        assert answer.headers["vary"] == "accept-encoding"
        assert answer.content == FILES["/static/main.js"].content
    assert all(gzip.decompress(file.compressed) == file.content for file in FILES.values())


async def test_it_needs_no_key_and_gives_nothing_else(http: httpx.AsyncClient, keys: KeyFile) -> None:
    for path in ("/static/", "/static/nothing.js", "/static/../app.py", "/index.html", "/static/README.md"):
        assert (await http.get(path)).status_code == 404, path
    assert (await http.post("/")).status_code == 405
    keys.create("acme")
    assert (await http.get("/")).status_code == 200
    assert (await http.get("/static/main.js")).status_code == 200
    assert (await http.get("/static/nothing.js")).status_code == 401


def test_script_and_style_are_small() -> None:
    assert (
        sum(len(file.content) for path, file in FILES.items() if path.endswith((".js", ".css"))) < MAX_BYTES
    )


def test_every_file_that_is_named_is_there_and_none_is_elsewhere() -> None:
    named = set()
    for path, file in FILES.items():
        text = file.content.decode()
        named |= {f"/static/{name}" for name in re.findall(r"""from "\./([^"]+)";""", text)}
        named |= set(re.findall(r'(?:src|href)="(/static/[^"]+)"', text))
        elsewhere = re.findall(r"""["'(](?:https?:)?//[^/\s"']+""", text)
        assert set(elsewhere) <= {'"http://www.w3.org'}, path
    assert named == FILES.keys() - {"/"}


def test_the_policy_lets_in_this_server_s_files_alone() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    asked = {"script-src", "style-src", "img-src", "connect-src"}
    assert {name for name, value in rules.items() if value == "'self'"} == asked
    others = {value for name, value in rules.items() if name not in asked}
    assert others == {"'none'", "'script'"}
    assert rules["default-src"] == rules["trusted-types"] == rules["frame-ancestors"] == "'none'"


def test_nothing_becomes_markup() -> None:
    """The browser enforces it too: see `POLICY`."""
    page = FILES["/"].content.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", page)
    for path, file in FILES.items():
        found = re.search(
            r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function",
            file.content.decode(),
        )
        assert not found, path
