"""Session stores by URL scheme."""

from contextlib import nullcontext
from importlib import import_module

from hope_server.errors import StoreConfigError
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.store import Deleting, SessionStore

STORES: dict[str, str] = {
    "memory": "hope_server.sessions.memory_store:MemoryStore",
    "redis": "hope_server.sessions.redis_store:RedisStore",
    "rediss": "hope_server.sessions.redis_store:RedisStore",
    "unix": "hope_server.sessions.redis_store:RedisStore",
}
"""URL scheme to class; a class is imported when its scheme is first used."""


async def open_store(url: str, keys: Keyring, *, deleting: Deleting = nullcontext) -> SessionStore:
    """The store at ``url``, with values sealed by ``keys``; ``deleting`` is entered around each deletion.

    Raises ``StoreConfigError`` for an unknown scheme or an unfit server.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in STORES:
        known = ", ".join(sorted(STORES))
        raise StoreConfigError(
            f"redis_url must start with one of {known}, found {scheme!r}", param="redis_url"
        )
    module, _, name = STORES[scheme].partition(":")
    store: SessionStore = await getattr(import_module(module), name).open(url, keys, deleting=deleting)
    return store
