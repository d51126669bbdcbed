"""What a kill -9 of Valkey costs with each `appendfsync`: tokens acknowledged, and how many are gone.

python tests/bench/fsync_loss.py --kills 12 --writers 4
"""

import argparse
import asyncio
import os
import secrets
import signal
import tempfile
from pathlib import Path
from typing import Literal

from hope_server.errors import HopeError
from hope_server.sessions import open_store
from hope_server.sessions.embedded import EmbeddedValkey
from hope_server.sessions.key import SessionKey
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import JournalRecord
from hope_server.sessions.store import SessionStore

BETWEEN_KILLS_S = 1.0


async def write(store: SessionStore, session: SessionKey, done: asyncio.Event) -> int:
    """One token a commit until the store is gone or time is up; the last acknowledged number."""
    fence, meta = await store.acquire(session, nonce=secrets.token_hex(16), ttl_s=0.001)
    head = meta.head
    try:
        while not done.is_set():
            record = JournalRecord(head.seq + 1, "step", "model", (7,))
            head = await store.append(session, fence, expected=head, records=[record])
    except HopeError:
        pass
    return head.seq


async def measure(mode: Literal["always", "everysec"], kills: int, writers: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        valkey = EmbeddedValkey(Path(directory), appendfsync=mode)
        await valkey.start()
        store = await open_store(valkey.url, Keyring([b"k" * 32]))
        sessions = [SessionKey("bench", f"w{number}") for number in range(writers)]
        for session in sessions:
            await store.create(session, model="m", name=None)
        acknowledged = lost = 0
        worst = 0
        for _ in range(kills):
            before = [(await store.meta(session)).seq for session in sessions]
            done = asyncio.Event()
            tasks = [asyncio.create_task(write(store, session, done)) for session in sessions]
            await asyncio.sleep(BETWEEN_KILLS_S)
            assert valkey.pid is not None
            os.kill(valkey.pid, signal.SIGKILL)
            done.set()
            reached = await asyncio.gather(*tasks)
            after = [(await store.meta(session)).seq for session in sessions]
            gone = sum(max(0, seq - found) for seq, found in zip(reached, after, strict=True))
            acknowledged += sum(reached) - sum(before)
            lost, worst = lost + gone, max(worst, gone)
        print(
            f"| {mode} | {kills} | {acknowledged} | {lost} | {lost / acknowledged:.2%} | {worst} |",
            flush=True,
        )
        await store.close()
        await valkey.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--writers", type=int, default=4)
    args = parser.parse_args()
    print("| appendfsync | kills | acknowledged tokens | lost | share | most in one kill |")
    print("|---|---|---|---|---|---|")
    for mode in ("always", "everysec"):
        asyncio.run(measure(mode, args.kills, args.writers))


if __name__ == "__main__":
    main()
