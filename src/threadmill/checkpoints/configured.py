"""Where the settings say that checkpoints keep what they hold.

The client library of a chunk store is imported when one is configured.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from threadmill.checkpoints.away import Away
from threadmill.drivers.postgres.reach import PATIENCE_SECONDS
from threadmill.errors import BadSetting, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from threadmill.settings import Settings

_log = structlog.get_logger(__name__)

_PAUSE_SECONDS: Final = 0.5


def away_of(settings: Settings, places: Mapping[str, str]) -> Away | None:
    """What is kept outside of PostgreSQL, with connections that are not open yet.

    Args:
        settings: name the store.
        places: `redis` or `postgres`, for each graph that langgraph.json says it for.

    Raises:
        BadSetting: the URI cannot be read, or a graph needs a store that is not set.
        SetupError: the store's client library is not installed.
    """
    if settings.checkpoint_uri is None:
        for graph_id, place in places.items():
            if place != "postgres":
                msg = (
                    f"threadmill.graphs.{graph_id}.checkpoints is {place}, and"
                    " CHECKPOINT_URI is not set: say where that is"
                )
                raise BadSetting(msg)
        return None
    from threadmill.checkpoints.redis.chunk_store import RedisChunks
    from threadmill.drivers.redis.database import RedisDatabase, RedisLimits

    limits = RedisLimits(
        pool_max=settings.pool_max,
        pool_timeout_seconds=settings.pool_timeout_seconds,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        command_timeout_seconds=settings.statement_timeout_seconds,
    )
    try:
        database = RedisDatabase(
            settings.checkpoint_uri.get_secret_value(),
            limits=limits,
            volatile=settings.checkpoint_volatile,
        )
    except BadSetting as error:
        msg = f"CHECKPOINT_URI: {error}"
        raise BadSetting(msg) from None
    stay = frozenset(graph for graph, place in places.items() if place == "postgres")
    return Away(RedisChunks(database), stay, archives=settings.checkpoint_archive)


@asynccontextmanager
async def open_away(
    settings: Settings, places: Mapping[str, str]
) -> AsyncIterator[Away | None]:
    """The same, open while the block runs; a store that is just starting is waited for.

    Raises:
        BadSetting, SetupError: see `away_of`; the store cannot be trusted with state.
        StoreUnavailable: it does not answer.
    """
    away = away_of(settings, places)
    if away is None:
        yield None
        return
    await _open(away)
    try:
        yield away
    finally:
        await away.store.close()


async def _open(away: Away) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await away.store.open()
        except StoreUnavailable as error:
            if time.monotonic() > deadline:
                raise
            _log.warning("redis.unreachable", cause=str(error), remedy="trying again")
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return
