"""Settings: where they come from, which win, and what a bad one says."""

from pathlib import Path

import pytest

from hope_server.config import ServerConfig, flag, variable
from hope_server.errors import StartupError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ServerConfig.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


def test_the_defaults_are_private_and_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    config = ServerConfig.load({})
    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert (config.model, config.learn, config.redis_url) == ("smollm2-135m", True, None)
    assert config.data_dir == Path("/state/hope")
    assert config.threads >= 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("port", "9001", 9001), ("slots", "5", 5), ("redis_url", "redis://a", "redis://a"), ("model", "m", "m")],
)
def test_a_flag_wins_over_a_variable_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    others = {"port": "9002", "slots": "6", "redis_url": "redis://b", "model": "n"}
    monkeypatch.setenv(variable(name), text)
    assert getattr(ServerConfig.load({}), name) == value
    monkeypatch.setenv(variable(name), others[name])
    assert getattr(ServerConfig.load({name: text}), name) == value


def test_the_usual_variable_of_redis_is_honoured_after_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://usual")
    assert ServerConfig.load({}).redis_url == "redis://usual"
    monkeypatch.setenv("HOPE_REDIS_URL", "redis://own")
    assert ServerConfig.load({}).redis_url == "redis://own"
    assert ServerConfig.load({"redis_url": "redis://flag"}).redis_url == "redis://flag"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPE_PORT", "")
    monkeypatch.setenv("REDIS_URL", "")
    config = ServerConfig.load({})
    assert (config.port, config.redis_url) == (8000, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("port", "http"),
        ("slots", "0"),
        ("slots", "1e9"),
        ("threads", "0"),
        ("keep_alive_s", "nan"),
        ("drain_deadline_s", "inf"),
        ("max_body_bytes", "12"),
        ("log_level", "loud"),
        ("host", "example.com"),
        ("redis_url", "localhost"),
        ("model", ""),
    ],
)
@pytest.mark.parametrize("source", ["flag", "variable"])
def test_a_bad_value_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, source: str
) -> None:
    if source == "variable":
        if value == "":
            return  # as good as not set
        monkeypatch.setenv(variable(name), value)
    with pytest.raises(StartupError) as refused:
        ServerConfig.load({name: value} if source == "flag" else {})
    assert refused.value.param == name
    assert flag(name) in str(refused.value)
    assert variable(name) in str(refused.value)


def test_a_bad_redis_url_is_not_repeated_for_it_may_hold_a_password() -> None:
    with pytest.raises(StartupError) as refused:
        ServerConfig.load({"redis_url": "user:secret@host"})
    assert "secret" not in str(refused.value)


def test_the_keys_lie_below_the_data_unless_told(tmp_path: Path) -> None:
    assert ServerConfig.load({"data_dir": tmp_path}).keys_directory == tmp_path / "keys"
    assert ServerConfig.load({"data_dir": tmp_path, "keys_dir": "~/k"}).keys_directory == Path.home() / "k"


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(StartupError, match="no such setting"):
        ServerConfig.load({"colour": "red"})
