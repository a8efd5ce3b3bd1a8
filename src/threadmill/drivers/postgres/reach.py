"""Waits for a database that may still be starting, and says clearly which one it is.

Processes of one deployment start in any order: the first refusal is no error yet. But
a wrong address must not look like a slow start for ever, so patience is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from threadmill.drivers.postgres.database import connection_info
from threadmill.errors import StoreUnavailable

if TYPE_CHECKING:
    from threadmill.drivers.postgres.database import Limits

PATIENCE_SECONDS: Final = 10.0
_FIRST_PAUSE_SECONDS: Final = 0.25
_PAUSE_SECONDS_MAX: Final = 2.0

OnRetry = Callable[[str], None]


async def reach(
    uri: str,
    *,
    limits: Limits,
    on_retry: OnRetry,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Returns when the database lets us in.

    Args:
        uri: of the database.
        limits: of one attempt to connect.
        on_retry: told why an attempt failed, before the next one.
        patience_seconds: how long attempts are repeated.

    Raises:
        StoreUnavailable: it never did; the message holds the address and the last
            refusal, and no password.
    """
    deadline = time.monotonic() + patience_seconds
    pause = _FIRST_PAUSE_SECONDS
    info = connection_info(uri, name="threadmill start", limits=limits)
    while True:
        try:
            await _connect(info, limits)
        except (OSError, psycopg.Error, TimeoutError) as error:
            reason = _reason(error)
            if time.monotonic() + pause > deadline:
                msg = (
                    f"the database at {address(uri)} does not answer ({reason}); check "
                    "DATABASE_URI and that PostgreSQL is running"
                )
                raise StoreUnavailable(msg) from error
            on_retry(reason)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _PAUSE_SECONDS_MAX)


async def _connect(info: str, limits: Limits) -> None:
    # psycopg's own timeout counts for each address of a host; this one for all.
    async with asyncio.timeout(2 * limits.connect_timeout_seconds):
        connection = await psycopg.AsyncConnection.connect(info)
        await connection.close()


def address(uri: str) -> str:
    """Where a URI leads: host, port and database, never user or password."""
    try:
        parts = conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        return "an address that cannot be read"
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"


def _reason(error: BaseException) -> str:
    """What the server or the system said, in one line."""
    if isinstance(error, TimeoutError) or not str(error):
        return "no answer in time"
    lines = [line.strip(" \t-") for line in str(error).splitlines()]
    # libpq adds advice in a line of its own; each address of a host has its refusal.
    refusals = [line for line in lines if " failed: " in line or "FATAL" in line]
    line = refusals[-1] if refusals else lines[0]
    return line.rpartition(" failed: ")[2].removeprefix("FATAL:").strip()
