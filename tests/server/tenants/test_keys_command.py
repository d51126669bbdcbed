"""`hope keys`: the key alone on stdout, everything else listed without it."""

from pathlib import Path

import pytest

from hope_server.cli import main
from hope_server.tenants.api_key import Caller
from hope_server.tenants.key_file import KeyFile


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KeyFile:
    monkeypatch.setenv("HOPE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HOPE_KEYS_DIR", raising=False)
    return KeyFile(tmp_path / "keys")


def test_create_list_revoke(place: KeyFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--tenant", "acme"]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert said.out == f"{key}\n"
    assert "of tenant acme; it is shown only now" in said.err
    ring = place.read()
    assert ring is not None
    assert ring.caller(key) == Caller("acme")
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    key_id = listed.split()[0]
    assert "tenant acme" in listed
    assert "in force" in listed
    assert key not in listed
    assert main(["keys", "revoke", key_id]) == 0
    assert main(["keys", "list"]) == 0
    assert "revoked 20" in capsys.readouterr().out


def test_an_operator_and_the_default_tenant(place: KeyFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--operator"]) == main(["keys", "create"]) == 0
    assert [record.tenant for record in place.records()] == [None, "default"]


def test_a_directory_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--keys-dir", str(tmp_path / "mine")]) == 0
    assert len(KeyFile(tmp_path / "mine").records()) == 1


@pytest.mark.parametrize("tenant", ["", "A", "a_b", "-a", "a" * 32, "ä", "a/b", "a\n"])
def test_a_name_that_no_tenant_has(place: KeyFile, capsys: pytest.CaptureFixture[str], tenant: str) -> None:
    assert main(["keys", "create", f"--tenant={tenant}"]) == 2
    assert "hope keys: --tenant: expected" in capsys.readouterr().err
    assert place.records() == []


def test_an_unknown_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "revoke", "nothing"]) == 2
    assert "expected the id of a key" in capsys.readouterr().err
