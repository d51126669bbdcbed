"""The log: which ids stand in it, and that an event stays one line."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from hope_server.logging import OURS, begin_request, name_session, set_up

SESSION = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    begin_request("-")


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_json_event_has_its_ids_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "json")
    begin_request("r-1")
    name_session(SESSION)
    logging.getLogger("hope.access").info("%s is done", "it", extra={"status": 200, "prompt": "secret"})
    (event,) = events(capsys)
    assert event.pop("time").endswith("+00:00")
    assert event == {
        "level": "info",
        "logger": "hope.access",
        "message": "it is done",
        "request_id": "r-1",
        "session_id": SESSION,
        "status": 200,
    }


def test_outside_of_requests_there_are_no_ids(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "json")
    logging.getLogger("hope.serve").info("ready")
    (event,) = events(capsys)
    assert event.keys() == {"time", "level", "logger", "message"}


@pytest.mark.parametrize("name", ["hope_model.decoding.paths", "hope_kernels.cpu.build"])
def test_what_the_layers_below_say_is_in_the_log(capsys: pytest.CaptureFixture[str], name: str) -> None:
    set_up("info", "json")
    logging.getLogger(name).info("which kernel decodes")
    logging.getLogger("somebody.else").info("nothing of ours")
    assert [event["logger"] for event in events(capsys)] == [name]


@pytest.mark.parametrize("name", ["my-password", SESSION[:-1], SESSION.upper(), SESSION + "a"])
def test_a_name_that_no_server_makes_is_not_logged(capsys: pytest.CaptureFixture[str], name: str) -> None:
    set_up("info", "json")
    begin_request("r-1")
    name_session(name)
    logging.getLogger("hope").info("event")
    assert "session_id" not in events(capsys)[0]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_event_is_one_line(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    set_up("info", log_format)
    logging.getLogger("hope").info("a\nb\x1b[1m")
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line


def test_an_exception_is_part_of_its_json_event(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "json")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("hope").exception("it broke")
    (event,) = events(capsys)
    assert event["exception"].endswith("ValueError: why")


def test_levels_and_other_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("warning", "text")
    logging.getLogger("hope").info("quiet")
    logging.getLogger("other").info("quiet")
    logging.getLogger("other").warning("loud")
    assert "quiet" not in (said := capsys.readouterr().err)
    assert "loud" in said
