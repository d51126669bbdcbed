"""Whether the sessions that a server is to hold fit into its memory: found out before any of it is taken."""

from pathlib import Path

import torch

from hope_model.attention.cache import WindowCache
from hope_model.attention.model import HopeAttention
from hope_model.decoding import DecodeRows, can_decode
from hope_model.hope import Hope
from hope_server.engine.request import EngineConfig
from hope_server.engine.runner import ServedModel
from hope_server.errors import StartupError

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def slot_bytes(model: ServedModel) -> int:
    """Bytes of one slot: what its row takes at its largest, in the runner's own form."""
    row = model.state_spec.row_bytes
    if isinstance(model, HopeAttention):
        sites = model.memory.sites
        active = sum(site.shape[0] * site.shape[1] for site in sites) * model.backbone.dtype.itemsize
        return row + active + WindowCache.row_bytes(model.config, model.backbone.dtype)
    if isinstance(model, Hope) and can_decode(model):
        return row + DecodeRows.row_bytes(model)
    return 2 * row


def check_fits(
    config: EngineConfig, bytes_a_slot: int, *, device: torch.device, free: int | None, host_free: int | None
) -> None:
    """Raises StartupError, with the setting and the number that fits, if too few bytes are ``free`` on the
    device for the slots, or on the host for rows that left them. None stands for a system that does not tell.
    """
    tier = config.host_state_bytes
    shared = device.type == "cpu"
    beside = f" beside a session of {bytes_a_slot:,}" if shared else ""
    kept = bytes_a_slot if shared else 0
    if host_free is not None and tier + kept > host_free:
        raise StartupError(
            f"--host-state-bytes (HOPE_HOST_STATE_BYTES): {tier:,} bytes do not fit{beside}: "
            f"{host_free:,} are free, so at most {max(0, host_free - kept):,}",
            param="host_state_bytes",
        )
    if free is None:
        return
    fit = (free - tier if shared else free) // bytes_a_slot
    if config.slots > fit:
        where = "" if shared else f" on {device}"
        raise StartupError(
            f"--slots (HOPE_SLOTS): {config.slots:,} sessions of {bytes_a_slot:,} bytes each do not fit"
            f"{where}: {free:,} bytes are free, which is enough for {fit:,}",
            param="slots",
        )


def free_bytes(device: torch.device, *, meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Memory that may still be taken on ``device``; None if nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [found for found in (_available(meminfo), _left_in(cgroup)) if found is not None]
    return min(limits, default=None)


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _left_in(cgroup: Path) -> int | None:
    """Of a container's limit; ``max`` is none."""
    try:
        limit, used = (
            (cgroup / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current")
        )
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None
