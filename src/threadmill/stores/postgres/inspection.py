"""Looks at a PostgreSQL for the doctor, over sessions of its own.

Not through `Database`: what the doctor looks for is why that would not work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import dict_row

from threadmill.drivers.postgres.database import connection_info
from threadmill.drivers.postgres.sql import Queries, Query
from threadmill.drivers.postgres.translate import translate
from threadmill.stores.inspection import (
    APP_ROLE,
    DISPATCHER_ROLE,
    RoleFacts,
    SchemaFacts,
    ServerFacts,
    TableFacts,
)

if TYPE_CHECKING:
    from threadmill.drivers.postgres.database import Limits

INSPECTION: Final = Queries(__package__, "inspection.sql")

_Connection = psycopg.AsyncConnection[dict[str, Any]]


class PostgresInspection:
    """The `Inspection` port.

    Args:
        uri: of the database.
        limits: of connections.
        setting: that holds the URI, for errors.
        clock: this machine's, in seconds since 1970.
    """

    def __init__(
        self,
        uri: str,
        *,
        limits: Limits,
        setting: str = "DATABASE_URI",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._seconds = (
            limits.connect_timeout_seconds + limits.statement_timeout_seconds
        )
        self._info = connection_info(
            uri, name="threadmill doctor", limits=limits, setting=setting
        )
        self._clock = clock

    async def server(self) -> ServerFacts:
        """See `Inspection.server`."""
        async with self._connected() as one, self._connected() as other:
            facts = await _one(one, INSPECTION.server)
            asked_at = self._clock()
            first = await _one(one, INSPECTION.session)
            answered_at = self._clock()
            second = await _one(other, INSPECTION.session)
            return ServerFacts(
                version=facts["version"],
                version_text=facts["version_text"],
                identity=(facts["started_at"], facts["database_id"]),
                standby=facts["standby"],
                # A pooler invents the number that it gives a new connection.
                pooled=one.info.backend_pid != first["pid"],
                shared=first["pid"] == second["pid"],
                fsync=facts["fsync"],
                full_page_writes=facts["full_page_writes"],
                synchronous_commit=facts["synchronous_commit"],
                connections=facts["connections"],
                clock_ahead_seconds=first["now"] - (asked_at + answered_at) / 2,
                clock_error_seconds=(answered_at - asked_at) / 2,
            )

    async def schema(self) -> SchemaFacts:
        """See `Inspection.schema`."""
        async with self._connected() as connection:
            names = [APP_ROLE, DISPATCHER_ROLE]
            roles = [
                RoleFacts(
                    name=row["name"],
                    exists=row["present"],
                    bypasses=row["bypasses"],
                    refusal=await _refusal(connection, row["name"]),
                )
                for row in await _all(connection, INSPECTION.roles, names=names)
            ]
            tables = [
                TableFacts(**row)
                for row in await _all(connection, INSPECTION.tables, role=APP_ROLE)
            ]
            leaking: Sequence[str] = ()
            unreadable = None
            try:
                leaking = await _leaking(connection)
            except psycopg.errors.Error as error:
                unreadable = _said(error)
        return SchemaFacts(
            roles=roles, tables=tables, leaking=leaking, unreadable=unreadable
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Connection]:
        try:
            async with (
                asyncio.timeout(self._seconds),
                await psycopg.AsyncConnection.connect(
                    self._info,
                    autocommit=True,
                    # A pooler in transaction mode may not know them.
                    prepare_threshold=None,
                    row_factory=dict_row,
                ) as connection,
            ):
                yield connection
        except (psycopg.OperationalError, TimeoutError) as error:
            raise translate(error) from error


async def _refusal(connection: _Connection, role: str) -> str | None:
    """Why the login may not become `role`."""
    try:
        async with connection.transaction():
            await connection.execute(INSPECTION.become.text, {"role": role})
    except psycopg.DatabaseError as error:
        return _said(error)
    return None


async def _leaking(connection: _Connection) -> Sequence[str]:
    async with connection.transaction():
        await connection.execute(INSPECTION.become.text, {"role": APP_ROLE})
        await connection.execute(INSPECTION.read_without_tenant.text)
        names: Sequence[str] | None = (await _one(connection, INSPECTION.leaking))[
            "names"
        ]
    return names or ()


async def _one(connection: _Connection, query: Query) -> dict[str, Any]:
    return (await _all(connection, query))[0]


async def _all(
    connection: _Connection, query: Query, **params: object
) -> list[dict[str, Any]]:
    cursor = await connection.execute(query.text, params or None)
    return await cursor.fetchall()


def _said(error: psycopg.Error) -> str:
    return error.diag.message_primary or type(error).__name__
