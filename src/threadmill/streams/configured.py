"""Where the settings say that event logs are copied to.

The client library is imported when a place is configured.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from threadmill.errors import BadSetting
from threadmill.streams.relay import NoRelay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from threadmill.settings import Settings
    from threadmill.streams.redis.relay import RedisRelay
    from threadmill.streams.relay import Relay


@asynccontextmanager
async def open_relay(settings: Settings) -> AsyncIterator[Relay]:
    """The relay of a process, while the block runs; without one, one that has nothing.

    Raises:
        BadSetting: the URI cannot be read.
        SetupError: the client library is not installed, or the login is refused.
    """
    if settings.stream_uri is None:
        yield NoRelay()
        return
    relay = _relay_at(settings.stream_uri.get_secret_value(), settings)
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()


def _relay_at(uri: str, settings: Settings) -> RedisRelay:
    from threadmill.drivers.redis.database import RedisDatabase, RedisLimits
    from threadmill.streams.redis.relay import RedisRelay

    limits = RedisLimits(
        pool_max=settings.pool_max,
        pool_timeout_seconds=settings.pool_timeout_seconds,
        connect_timeout_seconds=settings.connect_timeout_seconds,
    )
    try:
        # What it loses is read from PostgreSQL.
        database = RedisDatabase(uri, limits=limits, volatile=True)
    except BadSetting as error:
        msg = f"STREAM_URI: {error}"
        raise BadSetting(msg) from None
    return RedisRelay(database, ttl_seconds=settings.stream_ttl_seconds)
