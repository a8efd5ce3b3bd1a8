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

    from threadmill.drivers.redis.database import RedisDatabase
    from threadmill.settings import Settings
    from threadmill.streams.relay import Relay


@asynccontextmanager
async def open_relay(settings: Settings) -> AsyncIterator[Relay]:
    """The relay of a process, while the block runs; without one, one that has nothing.

    Raises:
        BadSetting: the URI cannot be read.
        SetupError: the client library is not installed, or the login is refused.
    """
    database = relay_database(settings)
    if database is None:
        yield NoRelay()
        return
    from threadmill.streams.redis.relay import RedisRelay

    relay = RedisRelay(database, ttl_seconds=settings.stream_ttl_seconds)
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()


def relay_database(settings: Settings) -> RedisDatabase | None:
    """Where copies are, not open yet; None where there are none.

    Raises:
        BadSetting: the URI cannot be read.
        SetupError: the client library is not installed.
    """
    if settings.stream_uri is None:
        return None
    from threadmill.drivers.redis.database import RedisDatabase, RedisLimits

    uri = settings.stream_uri.get_secret_value()
    limits = RedisLimits(
        pool_max=settings.pool_max,
        pool_timeout_seconds=settings.pool_timeout_seconds,
        connect_timeout_seconds=settings.connect_timeout_seconds,
    )
    try:
        # What it loses is read from PostgreSQL.
        return RedisDatabase(uri, limits=limits, volatile=True, evicting=True)
    except BadSetting as error:
        msg = f"STREAM_URI: {error}"
        raise BadSetting(msg) from None
