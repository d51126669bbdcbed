"""One rewrite of a Valkey's append-only file, until the old files are gone."""

import asyncio
from pathlib import Path

from hope_server.sessions.valkey_process import Address

_POLL_S = 0.05
_BUSY = ("loading", "aof_rewrite_in_progress", "aof_rewrite_scheduled")


async def rewrite_aof(address: Address, directory: Path) -> None:
    """What was deleted before the call is in no part of the append-only file afterwards. It may take minutes.

    Raises ``OSError`` if the server fails, ends or is started anew meanwhile.
    """
    run, before = (await _idle(address))["run_id"], _parts(directory)
    reply = await address.talk("BGREWRITEAOF")
    if not reply.startswith("+"):
        raise OSError(f"Valkey refused to rewrite its append-only file: {reply[:100]}")
    info = await _idle(address)
    if info["run_id"] != run:
        raise OSError("Valkey was started anew while it rewrote its append-only file")
    if info["aof_last_bgrewrite_status"] != "ok" or info["aof_last_write_status"] != "ok":
        raise OSError("Valkey could not rewrite its append-only file")
    while any(path.exists() for path in before - _parts(directory)):
        await address.info()  # raises once nobody is there to remove them
        await asyncio.sleep(_POLL_S)


def remove_leftovers(directory: Path) -> None:
    """Before a start: what a rewrite wrote whose Valkey was killed. Nobody else would ever remove it."""
    for leftover in directory.glob("temp-rewriteaof*"):
        leftover.unlink(missing_ok=True)


async def _idle(address: Address) -> dict[str, str]:
    """The server's figures once no rewrite runs or waits."""
    while True:
        info = await address.info()
        if not any(int(info[name]) for name in _BUSY):
            return info
        await asyncio.sleep(_POLL_S)


def _parts(directory: Path) -> set[Path]:
    """The files that the append-only file consists of: base and incremental, not what Valkey is to remove."""
    folder = directory / "appendonlydir"
    lines = (folder / "appendonly.aof.manifest").read_text(encoding="utf-8").splitlines()
    return {folder / fields[1] for fields in map(str.split, lines) if fields[5:6] in (["b"], ["i"])}
