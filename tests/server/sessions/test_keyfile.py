"""Where encryption keys come from, and what is refused as one."""

import os
import stat
import threading
from pathlib import Path

import pytest

from hope_server.errors import StartupError
from hope_server.sessions.key import SessionKey
from hope_server.sessions.keyfile import FILE_NAME, KEYS_VARIABLE, find_keys, parse_keys
from hope_server.sessions.sealing import Keyring, Tampered

ONE, TWO = "1a" * 32, "2B" * 32
SESSION = SessionKey("tenant", "session")


def ids(*keys: str) -> list[str]:
    return Keyring([bytes.fromhex(key) for key in keys]).ids


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)


def test_the_first_start_makes_a_private_file_and_later_ones_read_it(tmp_path: Path) -> None:
    made = find_keys(None, tmp_path / "data")
    assert stat.S_IMODE(os.stat(tmp_path / "data" / FILE_NAME).st_mode) == 0o600
    assert os.listdir(tmp_path / "data") == [FILE_NAME]
    assert find_keys(None, tmp_path / "data").ids == made.ids
    assert find_keys(None, tmp_path / "other").ids != made.ids


def test_servers_that_start_at_once_agree_on_a_key(tmp_path: Path) -> None:
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(find_keys(None, tmp_path / "data").ids))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(one) for one in found}) == 1


def test_a_file_wins_over_the_variable_and_the_variable_over_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of last year\n{ONE} # a remark\n\n{TWO}\n")
    file.chmod(0o600)
    monkeypatch.setenv(KEYS_VARIABLE, f"{TWO},{ONE}")
    assert find_keys(file, tmp_path).ids == ids(ONE, TWO)
    assert find_keys(None, tmp_path).ids == ids(TWO, ONE)
    assert os.listdir(tmp_path) == ["keys"]


def test_the_last_key_seals_and_all_open() -> None:
    old, both = parse_keys(ONE, "x"), parse_keys(f"{ONE} {TWO}", "x")
    assert both.unseal(SESSION, "record", 1, old.seal(SESSION, "record", 1, b"data")) == b"data"
    sealed = both.seal(SESSION, "record", 1, b"data")
    assert sealed[1:9].hex() == ids(TWO)[0]


@pytest.mark.parametrize(
    ("session", "kind", "place"),
    [
        (SessionKey("other", "session"), "record", 1),
        (SessionKey("tenant", "other"), "record", 1),
        (SESSION, "manifest", 1),
        (SESSION, "record", 2),
    ],
)
def test_a_value_opens_at_its_own_place_alone(session: SessionKey, kind: str, place: int) -> None:
    keys = parse_keys(ONE, "x")
    with pytest.raises(Tampered):
        keys.unseal(session, kind, place, keys.seal(SESSION, "record", 1, b"data"))


def test_equal_values_are_sealed_differently() -> None:
    keys = parse_keys(ONE, "x")
    assert len({keys.seal(SESSION, "record", 1, b"data") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text", ["", "# none", ONE[:-1], ONE + "0", "z" * 64, f"{ONE} x", f"{ONE} " * 65, "é"]
)
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(StartupError) as refused:
        find_keys(file, tmp_path)
    assert refused.value.param == "encryption_key_file"
    assert str(file) in str(refused.value)
    assert not text or text[:16] not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys"
    file.write_text(ONE)
    file.chmod(mode)
    with pytest.raises(StartupError, match="0600"):
        find_keys(file, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        find_keys(tmp_path / "none", tmp_path)
