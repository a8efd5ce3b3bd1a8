"""Whether a Redis can be trusted with state, looked at when it is opened.

A server that keeps nothing over a restart, or drops keys when its memory is full, loses
conversations without an error. Both are refused. Where the server does not say (some
managed services forbid the question), that is logged and taken on trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis import exceptions

from threadmill.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from threadmill.drivers.redis.target import Target

VERSION_MIN: Final = 7

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What a server may do with what lies there.

    Args:
        volatile: forget everything when it restarts.
        evicting: drop keys when its memory is full.
    """

    volatile: bool = False
    evicting: bool = False


async def examine(client: Any, target: Target, accepted: Accepted) -> None:
    """Asks every server that keeps data.

    Raises:
        SetupError: it is too old, or does what is not accepted.
        RedisError: it does not answer.
    """
    if target.kind != "cluster":
        await _examine_one(client.execute_command, str(target), accepted)
        return
    await client.initialize()
    for node in client.get_primaries():

        async def ask(*command: str, node: Any = node) -> Any:
            return await client.execute_command(*command, target_nodes=node)

        where = f"{node.host}:{node.port}"
        await _examine_one(ask, where, accepted)


async def _examine_one(ask: Any, where: str, accepted: Accepted) -> None:
    about = await _info(ask)
    version = str(about.get("redis_version", ""))
    if version and int(version.partition(".")[0]) < VERSION_MIN:
        msg = (
            f"Redis ({where}) is version {version}; threadmill needs {VERSION_MIN} or"
            " newer, or Valkey"
        )
        raise SetupError(msg)
    if not accepted.evicting:
        _require_all_kept(about, where)
    if not accepted.volatile:
        await _require_persistence(ask, about, where)


def _require_all_kept(about: Mapping[str, Any], where: str) -> None:
    policy = about.get("maxmemory_policy")
    if policy is None:
        _LOG.warning("redis.eviction_unknown", server=where)
    elif policy != "noeviction":
        msg = (
            f"Redis ({where}) drops keys when its memory is full (maxmemory-policy is"
            f" {policy}), and with them parts of conversations; set it to noeviction"
        )
        raise SetupError(msg)


async def _require_persistence(ask: Any, about: Mapping[str, Any], where: str) -> None:
    if int(about.get("aof_enabled", 0)):
        return
    try:
        found = await ask("CONFIG", "GET", "save")
    except exceptions.ResponseError:
        _LOG.warning("redis.persistence_unknown", server=where)
        return
    pairs = found.items() if isinstance(found, dict) else [tuple(found)]
    if any(_text(save).strip('"') for _, save in pairs):
        # A crash loses minutes; the remedy is `appendonly yes`.
        _LOG.warning("redis.snapshots_only", server=where)
        return
    msg = (
        f"Redis ({where}) keeps nothing over a restart (appendonly is no, and there are"
        " no save points); set appendonly yes, or accept the loss: volatile=True for a"
        " RedisSaver, THREADMILL_CHECKPOINT_VOLATILE=true for servers and workers"
    )
    raise SetupError(msg)


async def _info(ask: Any) -> Mapping[str, Any]:
    """All that the server tells about itself; empty if it may not be asked."""
    about: dict[str, Any] = {}
    for section in ("server", "memory", "persistence"):
        try:
            about |= await ask("INFO", section)
        except exceptions.NoPermissionError:
            continue
    return about


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
