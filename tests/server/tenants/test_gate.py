"""Who is let in, as the keys change under a gate that stays."""

from pathlib import Path

import pytest

from hope_server.errors import Forbidden, HopeError, KeysUnavailable, Unauthorized
from hope_server.tenants.api_key import Caller
from hope_server.tenants.gate import ANYBODY, Gate, is_loopback
from hope_server.tenants.key_file import KeyFile


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys")


def ask(gate: Gate, *authorization: str, client: str = "127.0.0.1", host: str = "127.0.0.1:8000") -> Caller:
    return gate.caller(list(authorization), client=client, host=host)


def refusal(gate: Gate, *authorization: str, **more: str) -> HopeError:
    with pytest.raises(HopeError) as refused:
        ask(gate, *authorization, **more)
    return refused.value


def test_keys_made_and_ended_count_at_the_next_request(keys: KeyFile) -> None:
    gate = Gate(keys)
    assert ask(gate) == ANYBODY
    record, key = keys.create("acme")
    assert refusal(gate).code == "missing_api_key"
    assert ask(gate, f"Bearer {key}") == Caller("acme")
    _, second = keys.create("umbrella")
    assert ask(gate, f"Bearer {second}") == Caller("umbrella")
    keys.revoke(record.id)
    assert refusal(gate, f"Bearer {key}").code == "invalid_api_key"
    assert ask(gate, f"Bearer {second}") == Caller("umbrella")


def test_a_server_that_had_keys_never_opens_again(keys: KeyFile) -> None:
    gate = Gate(keys)
    record, key = keys.create("acme")
    assert ask(gate, f"Bearer {key}").tenant == "acme"
    keys.revoke(record.id)
    assert isinstance(refusal(gate), Unauthorized)
    (keys.directory / "keys.json").unlink()
    assert isinstance(refusal(gate), Unauthorized)
    assert isinstance(refusal(gate, f"Bearer {key}"), Unauthorized)


def test_keys_that_cannot_be_read_let_nobody_in(keys: KeyFile) -> None:
    _, key = keys.create("acme")
    gate = Gate(keys)
    good = (keys.directory / "keys.json").read_bytes()
    (keys.directory / "keys.json").write_text("{")
    for _ in range(2):
        assert isinstance(refusal(gate, f"Bearer {key}"), KeysUnavailable)
    (keys.directory / "keys.json").write_bytes(good)
    assert ask(gate, f"Bearer {key}").tenant == "acme"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "{key}", "Basic {key}", "Bearer {key} {key}", "Bearer {key}x", "Bearer \u00e9"],
)
def test_what_is_no_bearer_key(keys: KeyFile, header: str) -> None:
    _, key = keys.create("acme")
    assert isinstance(refusal(Gate(keys), header.format(key=key)), Unauthorized)


def test_two_headers_are_one_too_many_and_the_scheme_s_case_does_not_count(keys: KeyFile) -> None:
    _, key = keys.create("acme")
    gate = Gate(keys)
    assert isinstance(refusal(gate, f"Bearer {key}", f"Bearer {key}"), Unauthorized)
    assert ask(gate, f"bearer  {key}").tenant == "acme"


@pytest.mark.parametrize("client", ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "", "nonsense"])
def test_without_keys_other_machines_are_refused(keys: KeyFile, client: str) -> None:
    error = refusal(Gate(keys), client=client)
    assert isinstance(error, Forbidden)
    assert error.code == "loopback_only"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "10.0.0.1:80", "localhost.evil.example"]
)
def test_without_keys_a_page_that_points_its_name_here_is_refused(keys: KeyFile, host: str) -> None:
    assert refusal(Gate(keys), host=host).code == "loopback_only"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000", "hope.localhost", "hope", ""])
def test_without_keys_this_machine_s_names_are_answered(keys: KeyFile, host: str) -> None:
    assert ask(Gate(keys), host=host) == ANYBODY


def test_with_keys_neither_address_nor_name_counts(keys: KeyFile) -> None:
    _, key = keys.create("acme")
    assert ask(Gate(keys), f"Bearer {key}", client="10.0.0.1", host="hope.example").tenant == "acme"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("::ffff:127.0.0.1", True),
        ("127.255.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("hope.example", False),
    ],
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) == own
