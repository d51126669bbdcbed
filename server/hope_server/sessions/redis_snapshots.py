"""A session's snapshots on Redis: chunks are staged first, then one call publishes them all.

Hashing and sealing many megabytes happens on threads: other sessions' tokens go on meanwhile.
"""

import asyncio
from collections.abc import Mapping

from hope_server.errors import StoreUnavailable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.manifest import (
    Manifest,
    cut,
    decode_manifest,
    encode_manifest,
    join,
    open_chunk,
    seal_chunk,
)
from hope_server.sessions.redis_link import Link
from hope_server.sessions.redis_meta import check_reply, chunk_key, fence_args, keys_of, meta_key
from hope_server.sessions.refusals import not_found, outside
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import Fence, Head, Snapshot

_STAGED_S = 600
_GENERATIONS = ("snap_seq", "snap_manifest", "snap_chain", "prev_seq", "prev_manifest", "prev_chain")
_TRIES = 3


class RedisSnapshots:
    """The snapshots' part of ``RedisStore``."""

    def __init__(self, link: Link, keys: Keyring) -> None:
        self._link, self._keys = link, keys

    async def put(
        self, session: SessionKey, fence: Fence, seq: int, parts: Mapping[str, bytes], head: Head
    ) -> None:
        manifest, chunks = await asyncio.to_thread(cut, self._keys, session, seq, parts)
        for _ in range(_TRIES):
            await self._stage(session, fence, chunks)
            if await self._publish(session, fence, manifest, head):
                return
        raise StoreUnavailable("the session store does not keep a snapshot's chunks until they are published")

    async def _stage(self, session: SessionKey, fence: Fence, chunks: Mapping[str, bytes]) -> None:
        """Send the chunks that the store does not hold, one command each."""
        reply = await self._link.ask_function("missing", keys_of(session), [*fence_args(fence), *chunks])
        check_reply(session, reply)
        for chunk_id in map(bytes.decode, reply[1:]):
            chunk = chunks[chunk_id]
            sealed = await asyncio.to_thread(seal_chunk, self._keys, session, chunk_id, chunk)
            await self._link.ask("SET", chunk_key(session, chunk_id), sealed, "EX", _STAGED_S)

    async def _publish(self, session: SessionKey, fence: Fence, manifest: Manifest, head: Head) -> bool:
        """Whether every chunk was there."""
        sealed = encode_manifest(self._keys, session, manifest)
        args = [*fence_args(fence), manifest.seq, sealed, " ".join(manifest.chunk_ids)]
        args += [head.seq, bytes.fromhex(head.sha256)]
        reply = await self._link.ask_function("publish_snapshot", keys_of(session), args)
        check_reply(session, reply)
        match reply:
            case [b"SEQ", head, last]:
                raise outside(manifest.seq, head=int(head), last=int(last))
        return reply != [b"MISSING"]

    async def get(self, session: SessionKey, at_most_seq: int | None) -> Snapshot | None:
        found = await self._manifest(session, at_most_seq)
        while found is not None:
            manifest, chain = found
            chunks = await self._chunks(session, manifest)
            if len(chunks) == len(manifest.chunk_ids):
                parts = await asyncio.to_thread(join, session, manifest, chunks)
                return Snapshot(manifest.seq, parts, chain)
            # A publication in between may have dropped chunks of this generation.
            newest = await self._manifest(session, at_most_seq)
            if newest == found:
                join(session, manifest, chunks)
            found = newest
        return None

    async def _manifest(self, session: SessionKey, at_most_seq: int | None) -> tuple[Manifest, str] | None:
        """The newest generation that is not above ``at_most_seq``, and its place in the chain."""
        command = ("HMGET", meta_key(session), "seq", *_GENERATIONS)
        head, *values = await self._link.ask(*command)
        if head is None:
            raise not_found(session)
        for seq, data, chain in (values[:3], values[3:]):
            if data is not None and (at_most_seq is None or int(seq) <= at_most_seq):
                manifest = decode_manifest(self._keys, session, data, seq=int(seq))
                return manifest, (chain or b"").hex()
        return None

    async def _chunks(self, session: SessionKey, manifest: Manifest) -> dict[str, bytes]:
        """The intact chunks, opened; a damaged one is removed, so that the next snapshot sends it again."""
        chunks: dict[str, bytes] = {}
        for chunk_id in manifest.chunk_ids:
            key = chunk_key(session, chunk_id)
            sealed = await self._link.ask("GET", key)
            if sealed is None:
                continue
            chunk = await asyncio.to_thread(open_chunk, self._keys, session, chunk_id, sealed)
            if chunk is None:
                await self._link.ask("UNLINK", key)
            else:
                chunks[chunk_id] = chunk
        return chunks
