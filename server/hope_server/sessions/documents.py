"""Documents of a session as a store keeps them: sealed for their place, on Redis in one hash."""

from collections.abc import Mapping, Sequence

from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_link import Link
from hope_server.sessions.redis_meta import check_reply, documents_key, keys_of, meta_key
from hope_server.sessions.refusals import damaged_document, not_found, too_many_documents
from hope_server.sessions.sealing import Keyring, Tampered
from hope_server.sessions.session import MAX_DOCUMENTS, check_document


def seal_document(keys: Keyring, session: SessionKey, name: str, data: bytes) -> bytes:
    return keys.seal(session, "document", name, data)


def open_document(keys: Keyring, session: SessionKey, name: str, sealed: bytes) -> bytes:
    """Raises ``SessionCorrupted``."""
    try:
        return keys.unseal(session, "document", name, sealed)
    except Tampered as error:
        raise damaged_document(session, name) from error


class RedisDocuments:
    """The documents' part of ``RedisStore``."""

    def __init__(self, link: Link, keys: Keyring) -> None:
        self._link, self._keys = link, keys

    async def put(self, session: SessionKey, name: str, data: bytes | None) -> None:
        check_document(name, data)
        sealed = b"" if data is None else seal_document(self._keys, session, name, data)
        reply = await self._link.ask_function("document", keys_of(session), [MAX_DOCUMENTS, name, sealed])
        check_reply(session, reply)
        if reply == [b"FULL"]:
            raise too_many_documents(session)

    async def names(self, session: SessionKey) -> Sequence[str]:
        asked = [("HKEYS", documents_key(session)), ("EXISTS", meta_key(session))]
        names, exists = await self._link.settled(lambda: self._link.send_all(asked))
        if not exists:
            raise not_found(session)
        return sorted(name.decode() for name in names)

    async def read(self, session: SessionKey, names: Sequence[str]) -> Mapping[str, bytes]:
        asked = [("EXISTS", meta_key(session)), *(("HGET", documents_key(session), name) for name in names)]
        exists, *found = await self._link.settled(lambda: self._link.send_all(asked))
        if not exists:
            raise not_found(session)
        pairs = [(name, sealed) for name, sealed in zip(names, found, strict=True) if sealed is not None]
        return {name: open_document(self._keys, session, name, sealed) for name, sealed in pairs}
