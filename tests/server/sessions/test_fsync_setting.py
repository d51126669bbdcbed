"""A server that says its crash may cost acknowledged tokens is logged; one that does not tell is used."""

import logging
from collections.abc import Callable

import pytest
from redis import Redis
from tests.server.sessions.writing import KEYS

from hope_server.sessions import open_store

StartValkey = Callable[..., str]


@pytest.mark.parametrize(("mode", "warned"), [("always", False), ("everysec", True), ("no", True)])
async def test_a_weaker_promise_is_logged(
    start_valkey: StartValkey, caplog: pytest.LogCaptureFixture, mode: str, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    store = await open_store(start_valkey("--appendonly", "yes", "--appendfsync", mode), KEYS)
    await store.close()
    assert (f"appendfsync {mode}" in caplog.text) == warned


async def test_a_server_that_does_not_tell_its_settings_is_used(external_url: str) -> None:
    with Redis.from_url(external_url) as redis:
        redis.execute_command("ACL SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-config")
    store = await open_store(external_url.replace("redis://", "redis://blind:secret@"), KEYS)
    await store.ping()
    await store.close()
