"""A session's snapshots on Redis: chunks are staged first, then one call publishes them all."""

from collections.abc import Mapping

from hope_server.errors import SequenceConflict, StoreUnavailable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.manifest import Manifest, cut, decode_manifest, encode_manifest, is_intact, join
from hope_server.sessions.redis_link import Link
from hope_server.sessions.redis_meta import chunk_key, meta_key, not_found
from hope_server.sessions.store import Snapshot

_STAGED_S = 600
_GENERATIONS = ("snap_seq", "snap_manifest", "prev_seq", "prev_manifest")
_TRIES = 3


class RedisSnapshots:
    """The snapshots' part of ``RedisStore``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def put(self, session: SessionKey, seq: int, parts: Mapping[str, bytes]) -> None:
        manifest, chunks = cut(seq, parts)
        for _ in range(_TRIES):
            await self._stage(session, chunks)
            if await self._publish(session, manifest):
                return
        raise StoreUnavailable("the session store does not keep a snapshot's chunks until they are published")

    async def _stage(self, session: SessionKey, chunks: Mapping[str, bytes]) -> None:
        """Send the chunks that the store does not hold, one command each."""
        keys = [meta_key(session)]
        reply = await self._link.ask_function("missing", keys, list(chunks))
        if reply[0] != b"OK":
            raise not_found(session)
        for chunk_id in map(bytes.decode, reply[1:]):
            key = chunk_key(session, chunk_id)
            await self._link.ask("SET", key, chunks[chunk_id], "EX", _STAGED_S)

    async def _publish(self, session: SessionKey, manifest: Manifest) -> bool:
        """Whether every chunk was there."""
        keys = [meta_key(session)]
        args = [manifest.seq, encode_manifest(session, manifest), " ".join(manifest.chunk_ids)]
        reply = await self._link.ask_function("publish", keys, args)
        match reply:
            case [b"OK"]:
                return True
            case [b"MISSING"]:
                return False
            case [b"SEQ", head, base, last]:
                allowed = f"above {int(base)}, from {int(last)} to {int(head)}"
                raise SequenceConflict(f"a snapshot must lie {allowed}, found {manifest.seq}")
        raise not_found(session)

    async def get(self, session: SessionKey, at_most_seq: int | None) -> Snapshot | None:
        manifest = await self._manifest(session, at_most_seq)
        while manifest is not None:
            chunks = await self._chunks(session, manifest)
            if len(chunks) == len(manifest.chunk_ids):
                return Snapshot(manifest.seq, join(session, manifest, chunks))
            # A publication in between may have dropped chunks of this generation.
            newest = await self._manifest(session, at_most_seq)
            if newest == manifest:
                join(session, manifest, chunks)
            manifest = newest
        return None

    async def _manifest(self, session: SessionKey, at_most_seq: int | None) -> Manifest | None:
        """The newest generation that is not above ``at_most_seq``."""
        command = ("HMGET", meta_key(session), "seq", *_GENERATIONS)
        head, *values = await self._link.ask(*command)
        if head is None:
            raise not_found(session)
        for seq, data in (values[:2], values[2:]):
            if data is not None and (at_most_seq is None or int(seq) <= at_most_seq):
                return decode_manifest(session, data, seq=int(seq))
        return None

    async def _chunks(self, session: SessionKey, manifest: Manifest) -> dict[str, bytes]:
        """The intact chunks; a damaged one is removed, so that the next snapshot sends it again."""
        chunks: dict[str, bytes] = {}
        for chunk_id in manifest.chunk_ids:
            key = chunk_key(session, chunk_id)
            data = await self._link.ask("GET", key)
            if data is not None and is_intact(chunk_id, data):
                chunks[chunk_id] = data
            elif data is not None:
                await self._link.ask("UNLINK", key)
        return chunks
