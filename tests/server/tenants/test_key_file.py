"""API keys on disk: what is kept, what is in force, and that nothing else opens."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_server.errors import StartupError
from hope_server.tenants.api_key import Caller, KeyRing, new_key
from hope_server.tenants.key_file import KeyFile


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "state" / "keys")


def caller(keys: KeyFile, key: str) -> Caller | None:
    ring = keys.read()
    assert ring is not None
    return ring.caller(key)


def test_a_key_opens_its_tenant_until_it_is_revoked(keys: KeyFile) -> None:
    assert keys.read() is None
    (one, first), (_, second) = keys.create("acme"), keys.create("umbrella-2")
    assert caller(keys, first) == Caller("acme")
    assert caller(keys, second) == Caller("umbrella-2")
    assert keys.revoke(one.id).revoked_at is not None
    assert caller(keys, first) is None
    assert caller(keys, second) == Caller("umbrella-2")
    assert [record.revoked_at is None for record in keys.records()] == [False, True]


def test_an_operator_s_key_has_no_sessions(keys: KeyFile) -> None:
    assert caller(keys, keys.create(None)[1]) == Caller(None, operator=True)


def test_revoking_twice_changes_nothing_and_an_unknown_id_is_an_error(keys: KeyFile) -> None:
    record, _ = keys.create("acme")
    assert keys.revoke(record.id) == keys.revoke(record.id)
    with pytest.raises(StartupError, match="expected the id of a key"):
        keys.revoke("0" * 16)


def test_the_files_hold_no_key_and_only_their_owner_reads_them(keys: KeyFile) -> None:
    _, key = keys.create("acme")
    for path in keys.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert key.split("_", 2)[2].encode() not in path.read_bytes()
    assert stat.S_IMODE(keys.directory.stat().st_mode) == 0o700
    (kept,) = json.loads((keys.directory / "keys.json").read_text())["keys"]
    assert kept.keys() == {"id", "tenant", "mac", "created_at", "revoked_at"}


def test_the_hash_needs_the_secret(keys: KeyFile) -> None:
    """The same file with another secret opens nothing."""
    _, key = keys.create("acme")
    (keys.directory / "keys.secret").write_bytes(bytes(32))
    assert caller(keys, key) is None


SECRET = bytes(range(32))
RECORD, KEY = new_key("acme", SECRET, now=0)


@given(at=st.integers(0, len(KEY) - 1), other=st.characters(codec="latin-1"), anything=st.text(max_size=80))
def test_a_key_that_differs_anywhere_opens_nothing(at: int, other: str, anything: str) -> None:
    ring = KeyRing([RECORD], SECRET)
    changed = KEY[:at] + other + KEY[at + 1 :]
    assert (ring.caller(changed) == Caller("acme")) == (changed == KEY)
    assert ring.caller(anything) is None


def test_two_at_once_lose_no_key(keys: KeyFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [key for _, key in pool.map(keys.create, ["acme"] * 24)]
    assert all(caller(keys, key) == Caller("acme") for key in made)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 2, "keys": []}',
        '{"format": 1, "keys": [], "more": 1}',
        '{"format": 1, "keys": [{"id": "x"}]}',
    ],
)
def test_a_file_that_is_no_key_file_is_an_error(keys: KeyFile, content: str) -> None:
    keys.create("acme")
    (keys.directory / "keys.json").write_text(content)
    with pytest.raises(StartupError, match="not a key file") as refused:
        keys.read()
    assert refused.value.param == "keys_dir"


def test_files_in_the_way_and_secrets_that_are_none_are_named(keys: KeyFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="file"):
        KeyFile(tmp_path / "file").create("acme")
    keys.create("acme")
    for damage in (b"short", b"x" * 33):
        (keys.directory / "keys.secret").write_bytes(damage)
        with pytest.raises(StartupError, match="expected 32 bytes"):
            keys.read()
    (keys.directory / "keys.secret").unlink()
    with pytest.raises(StartupError, match=r"keys\.secret: cannot be used"):
        keys.read()
