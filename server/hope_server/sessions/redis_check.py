"""Whether a Redis server can be trusted with sessions: version, role, eviction, durability."""

import logging
from collections.abc import Mapping
from typing import Any

from hope_server.errors import StoreConfigError

logger = logging.getLogger(__name__)

OLDEST = (7, 0)


def check_server(info: Mapping[str, Any]) -> None:
    """Check an ``INFO`` reply at start; raises ``StoreConfigError`` naming the setting to change."""
    version = str(info.get("redis_version", ""))
    if _numbers(version) < OLDEST:
        raise _unfit(f"the Redis server must be 7.0 or newer, found {version or 'no version'}")
    if int(info.get("cluster_enabled", 0)):
        raise _unfit("the Redis server must run with cluster-enabled no, found yes")
    check_policy(info)
    if not int(info.get("aof_enabled", 0)):
        logger.warning("the Redis server runs with appendonly no: a restart of it loses sessions")


def check_fsync(setting: str | None) -> None:
    """Say what ``appendfsync`` promises; ``None``: the server does not tell."""
    if setting not in (None, "always"):
        logger.warning(
            "the Redis server runs with appendfsync %s: a crash of it loses acknowledged tokens", setting
        )


def check_policy(info: Mapping[str, Any]) -> None:
    """What can change at run time; raises ``StoreConfigError`` if sessions are no longer safe."""
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        raise _unfit(f"the Redis server must run with maxmemory-policy noeviction, found {policy}")
    if info.get("role") == "slave":
        raise _unfit("redis_url must name the primary Redis server, found a replica")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _unfit(message: str) -> StoreConfigError:
    return StoreConfigError(message, param="redis_url")
