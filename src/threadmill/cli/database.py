"""What every command does with the database before it works: wait for it, check it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from threadmill.drivers.postgres.configured import (
    database_uri,
    limits_of,
    migrate_database,
    reach_database,
    reach_direct,
    require_one_database,
    require_schema,
)
from threadmill.drivers.postgres.database import Database

if TYPE_CHECKING:
    from threadmill.checkpoints.repack import Repacked
    from threadmill.operations import Operations
    from threadmill.settings import Settings

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def await_database(settings: Settings) -> None:
    """Returns when the database answers, also directly, and its schema is current.

    Raises:
        BadSetting: no database is configured, or DATABASE_URI_DIRECT is another one.
        StoreUnavailable: it does not answer within some ten seconds, or refuses us.
        SchemaOutdated: the message names `threadmill migrate`.
        SetupError: the login lacks a right.
    """

    async def check() -> None:
        await reach_database(settings, _tell)
        await require_schema(settings)
        await reach_direct(settings, _tell)
        await require_one_database(settings)

    asyncio.run(check())


def upgrade_database(settings: Settings) -> Sequence[str]:
    """Brings the schema up to date; gives the names of what was applied.

    Raises:
        BadSetting, StoreUnavailable: as `await_database`, of DATABASE_URI alone.
        SetupError: PostgreSQL is too old, or the login may not migrate.
    """

    async def upgrade() -> Sequence[str]:
        await reach_database(settings, _tell)
        return await migrate_database(settings)

    return asyncio.run(upgrade())


def repack_database(
    settings: Settings, tenant: str, tell: Callable[[Repacked], None]
) -> None:
    """Rewrites a tenant's checkpoints of the first format.

    Args:
        settings: name the database.
        tenant: whose.
        tell: called after each page.

    Raises:
        StoreUnavailable: the database went away; what was told of is done.
    """
    from threadmill.checkpoints.codec import Codec
    from threadmill.checkpoints.repack import repack

    async def rewrite() -> None:
        limits = replace(limits_of(settings), pool_min=1, pool_max=1)
        database = Database(
            database_uri(settings),
            name="threadmill repack",
            limits=limits,
            prepare=settings.prepared_statements,
        )
        await database.open()
        try:
            # A checkpoint that is stored already may have been allowed to be larger.
            codec = Codec(state_bytes_max=sys.maxsize)
            async for done in repack(database, codec, tenant):
                tell(done)
        finally:
            await database.close()

    asyncio.run(rewrite())


def operate(settings: Settings, work: Callable[[Operations], Awaitable[T]]) -> T:
    """Carries out what an operator asks of the database; no server is needed.

    Raises:
        BadSetting, StoreUnavailable, SchemaOutdated: as `await_database`, of
            DATABASE_URI alone.
    """
    from threadmill.operations import open_operations

    async def opened() -> T:
        await reach_database(settings, _tell)
        await require_schema(settings)
        async with open_operations(settings) as operations:
            return await work(operations)

    return asyncio.run(opened())


def _tell(reason: str) -> None:
    _log.warning("database.unreachable", cause=reason, remedy="trying again")
