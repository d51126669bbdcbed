"""Recomputes a session from its journal alone and compares, bit for bit, with what its snapshot leads to."""

from functools import partial
from hashlib import sha256

import torch

from hope_model.state import State
from hope_server.engine.lease import Desk, replayed
from hope_server.engine.request import Verification
from hope_server.engine.restore import Restored, restore, runs_between
from hope_server.errors import HopeError, SessionCorrupted
from hope_server.sessions.history import History
from hope_server.sessions.records import corrupt
from hope_server.sessions.session import JournalRecord, SessionMeta
from hope_server.sessions.store import journal


def state_sha256(row: State) -> str:
    """Of every tensor's name, shape, type and bytes, in the order of the names."""
    digest = sha256()
    for name in sorted(row):
        tensor = row[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


async def verify(desk: Desk, meta: SessionMeta, name: str) -> Verification:
    """Check the whole journal and replay it twice; ``name`` is one that no session has.

    Raises:
        SessionCorrupted: the journal is damaged, or a draw does not stand where its counter says.
        QueueFull: too many wait for a slot.
    """
    await _check_journal(desk, meta)
    runs = [run async for run in runs_between(desk.store, meta.key, meta.path, after=0, head=meta.seq)]
    replayed = await state_after(desk, name, Restored.on(meta.path, None, 0, runs))
    failed: list[HopeError] = []
    found = await restore(desk.store, desk.spec, meta, failed.append)
    restored = await state_after(desk, name, found)
    return Verification(
        seq=meta.seq,
        position=meta.position,
        head_sha256=meta.head.sha256,
        replayed_sha256=state_sha256(replayed),
        restored_sha256=state_sha256(restored),
        snapshot_seq=0 if found.row is None else meta.path.seq(found.position),
    )


async def _check_journal(desk: Desk, meta: SessionMeta) -> None:
    """What ``meta`` says of the past, which nothing seals, must be what the journal says."""
    last: JournalRecord | None = None
    history = History()
    async for record in journal(desk.store, meta.key, after=0, head=meta.seq):
        last = record
        try:
            history.read(record)
        except ValueError as error:
            raise corrupt(meta.key, str(error)) from error
        on_path = meta.path.holds(record.first_seq) and record.tokens
        if on_path and record.sampler is not None:
            position = meta.path.position(record.first_seq) - 1
            if record.sampler.counter != position:
                raise corrupt(meta.key, f"a draw at {record.first_seq} says {record.sampler.counter}")
    if last is not None and last.chain != meta.head.sha256:
        raise SessionCorrupted(f"the journal of session {meta.session_id} does not end with its head")
    if history.at(meta.seq).path != meta.path:
        raise corrupt(meta.key, f"its resets and rollbacks do not lead to the path {meta.path}")


async def state_after(desk: Desk, name: str, start: Restored) -> State:
    """The row after ``start``'s runs."""
    async with replayed(desk, name, start):
        return await desk.thread.call(partial(desk.engine.live_row, name))
