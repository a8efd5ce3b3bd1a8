"""Waits for a database that may still be starting, and says clearly which one it is.

Processes of one deployment start in any order: the first time nobody answers is no
error yet. But a wrong address must not look like a slow start for ever, so patience is
bounded; and a server that refuses the login or the database is believed at once.

Later, an `Outage` says once that a way to the database broke, and once that it is back.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from threadmill.drivers.postgres.database import connection_info
from threadmill.drivers.postgres.translate import translate
from threadmill.environment import is_misread
from threadmill.errors import StoreUnavailable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from threadmill.drivers.postgres.database import Limits

PATIENCE_SECONDS: Final = 10.0
_FIRST_PAUSE_SECONDS: Final = 0.25
_PAUSE_SECONDS_MAX: Final = 2.0
# SQLSTATE classes 28 and 3D, told by their texts: libpq keeps the state of a refused
# connection to itself. In another language such a refusal is only believed later.
_FINAL: Final = re.compile(
    r"authentication failed|no password supplied|not permitted to log in"
    r"|no pg_hba\.conf entry|(role|database) .* does not exist"
)

_IDENTITY: Final = b"""
SELECT pg_postmaster_start_time(), oid
  FROM pg_catalog.pg_database WHERE datname = current_database()
"""

OnRetry = Callable[[str], None]


async def reach(
    uri: str,
    *,
    limits: Limits,
    on_retry: OnRetry,
    setting: str = "DATABASE_URI",
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Returns when the database lets us in.

    Args:
        uri: of the database.
        limits: of one attempt to connect.
        on_retry: told why an attempt failed, before the next one.
        setting: that holds the URI, for the error.
        patience_seconds: how long attempts are repeated.

    Raises:
        BadSetting: the URI cannot be parsed.
        StoreUnavailable: it never did, or refuses us; the message holds the setting,
            the address and the last reason, and no password.
    """
    deadline = time.monotonic() + patience_seconds
    pause = _FIRST_PAUSE_SECONDS
    info = connection_info(uri, name="threadmill start", limits=limits, setting=setting)
    while True:
        try:
            await _connect(info, limits)
        except (OSError, psycopg.Error, TimeoutError) as error:
            reason = reason_of(error)
            if _FINAL.search(reason):
                msg = f"{address(uri)} refuses: {reason}; check {setting}"
                raise StoreUnavailable(msg) from error
            if time.monotonic() + pause > deadline:
                msg = (
                    f"the database at {address(uri)} does not answer ({reason}); check "
                    f"{setting} and that PostgreSQL is running"
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


async def lead_to_one_database(uri: str, direct: str, *, limits: Limits) -> bool:
    """Whether two URIs that were reached lead to one database of one running server.

    Raises:
        StoreUnavailable: one of them does not answer any more.
    """
    return await _identity(uri, limits) == await _identity(direct, limits)


async def _identity(uri: str, limits: Limits) -> tuple[object, ...] | None:
    info = connection_info(uri, name="threadmill start", limits=limits)
    try:
        async with (
            asyncio.timeout(limits.statement_timeout_seconds),
            await psycopg.AsyncConnection.connect(info) as connection,
        ):
            return await (await connection.execute(_IDENTITY)).fetchone()
    except (OSError, psycopg.Error, TimeoutError) as error:
        raise translate(error) from error


class Outage:
    """A way to the database that may break: told once, and once when it is back.

    Args:
        log: where.
        name: of the way: the events are `name.broken` and `name.recovered`.
        first_pause_seconds: before the first attempt to connect again; doubled for
            each further one, up to two seconds.
    """

    def __init__(
        self, log: FilteringBoundLogger, name: str, *, first_pause_seconds: float
    ) -> None:
        self._log = log
        self._name = name
        self._first_pause_seconds = first_pause_seconds
        self._pause_seconds = 0.0

    def broke(self, error: BaseException) -> float:
        """It broke, or still is; returns how long to wait before the next attempt."""
        if not self._pause_seconds:
            self._log.warning(f"{self._name}.broken", cause=reason_of(error))
        self._pause_seconds = min(
            max(2 * self._pause_seconds, self._first_pause_seconds), _PAUSE_SECONDS_MAX
        )
        return self._pause_seconds

    def over(self) -> None:
        """It works."""
        if self._pause_seconds:
            self._log.info(f"{self._name}.recovered")
        self._pause_seconds = 0.0


def address(uri: str) -> str:
    """Where a URI leads: host, port and database, never user or password."""
    try:
        parts = conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        return "an address that cannot be read"
    if is_misread(uri):
        return "an address that cannot be read"
    given = {
        o.keyword.decode(): o.val.decode() for o in Conninfo.get_defaults() if o.val
    }
    parts = {**given, **parts}
    host, port = parts.get("host") or parts.get("hostaddr"), parts.get("port") or 5432
    database = parts.get("dbname") or ""
    if host is None:
        return f"the local socket of port {port}, database {database}"
    if str(host).startswith(("/", "@")):
        return f"the socket {host}/.s.PGSQL.{port}, database {database}"
    return f"{host}:{port}/{database}"


def reason_of(error: BaseException) -> str:
    """What the server or the system said, in one line."""
    if isinstance(error, TimeoutError) or not str(error):
        return "no answer in time"
    lines = [line.strip(" \t-") for line in str(error).splitlines()]
    # libpq adds advice in a line of its own; each address of a host has its refusal.
    refusals = [line for line in lines if " failed: " in line or "FATAL" in line]
    line = refusals[-1] if refusals else lines[0]
    return line.rpartition(" failed: ")[2].removeprefix("FATAL:").strip()
