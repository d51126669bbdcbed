"""A process that owns an embedded Valkey, says that it is ready, and waits to be killed."""

import asyncio
import sys
from pathlib import Path

from hope_server.sessions import open_store
from hope_server.sessions.embedded import EmbeddedValkey
from hope_server.sessions.key import SessionKey
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import GENESIS, JournalRecord

KEPT = SessionKey("tenant", "kept")
KEYS = Keyring([b"k" * 32])


async def own(directory: Path) -> None:
    valkey = EmbeddedValkey(directory)
    await valkey.start()
    store = await open_store(valkey.url, KEYS)
    await store.create(KEPT, model="m", name=None)
    fence, _ = await store.acquire(KEPT, nonce="a" * 32, ttl_s=60)
    record = JournalRecord(1, "run", "user", (1, 2))
    await store.append(KEPT, fence, expected=GENESIS, records=[record])
    print(valkey.pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(own(Path(sys.argv[1])))
