"""What every command does with the database before it works: wait for it, check it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
    from uuid import UUID

    from threadmill.checkpoints.postgres import PostgresCheckpoints
    from threadmill.checkpoints.repack import Repacked
    from threadmill.domain.history import HistoryQuery
    from threadmill.engine.measure import Measured
    from threadmill.engine.prune import PruneOrder
    from threadmill.engine.search_histories import HistoryPage
    from threadmill.operations import Operations
    from threadmill.settings import Settings
    from threadmill.stores.retention import Freed
    from threadmill.streams.relay import Relay

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


def prune_database(
    settings: Settings, tenant: str, order: PruneOrder, tell: Callable[[Freed], None]
) -> None:
    """Prunes threads.

    Args:
        settings: name the database.
        tenant: whose.
        order: which, and how.
        tell: called after each page with all that is freed so far.

    Raises:
        StoreUnavailable: the database went away; what was told of is done.
    """
    from threadmill.checkpoints.pruning import PostgresPruning
    from threadmill.engine.prune import Prune
    from threadmill.stores.postgres.retention import PostgresRetention
    from threadmill.streams.configured import open_relay

    async def work(checkpoints: PostgresCheckpoints) -> None:
        kept = PostgresRetention(checkpoints.database)
        async for freed in Prune(kept, PostgresPruning(checkpoints))(tenant, order):
            tell(freed)

    async def prune() -> None:
        async with open_relay(settings) as relay:
            await _with_checkpoints(settings, "threadmill prune", work, relay)

    asyncio.run(prune())


def search_histories(
    settings: Settings,
    config: Path,
    tenant: str,
    query: HistoryQuery,
    **page: Any,
) -> HistoryPage:
    """Searches histories.

    Args:
        settings: name the database.
        config: langgraph.json, which says what is indexed; it may be absent.
        tenant: whose.
        query: what is searched for.
        page: see `SearchHistories`.

    Raises:
        InvalidRequest: the cursor is of another search.
    """
    from threadmill.checkpoints.history_search import PostgresHistories
    from threadmill.cli.project import indexed_near
    from threadmill.engine.search_histories import SearchHistories

    indexed = indexed_near(config)

    async def work(checkpoints: PostgresCheckpoints) -> HistoryPage:
        histories = PostgresHistories(checkpoints)
        return await SearchHistories(histories, indexed)(tenant, query, **page)

    return asyncio.run(_with_checkpoints(settings, "threadmill history", work))


def measure(
    settings: Settings, tenant: str, thread_id: UUID | None, **page: Any
) -> Measured:
    """Measures one thread, or a page of threads.

    Args:
        settings: name the database.
        tenant: whose.
        thread_id: the only one that is measured.
        page: else which; see `Measure`.

    Raises:
        NotFound: there is no such thread.
        InvalidRequest: the cursor is of another question.
    """
    from threadmill.checkpoints.sizes import PostgresSizes
    from threadmill.engine.measure import Measure

    async def work(checkpoints: PostgresCheckpoints) -> Measured:
        measure = Measure(PostgresSizes(checkpoints.database, checkpoints.away))
        if thread_id is not None:
            return await measure.one(tenant, thread_id)
        return await measure(tenant, **page)

    return asyncio.run(_with_checkpoints(settings, "threadmill storage", work))


async def _with_checkpoints(
    settings: Settings,
    name: str,
    work: Callable[[PostgresCheckpoints], Awaitable[T]],
    relay: Relay | None = None,
) -> T:
    """Does `work` over one connection of its own, once the schema is current."""
    from threadmill.checkpoints.configured import away_of
    from threadmill.checkpoints.postgres import PostgresCheckpoints

    await reach_database(settings, _tell)
    await require_schema(settings)
    database = Database(
        database_uri(settings),
        name=name,
        limits=replace(limits_of(settings), pool_min=1, pool_max=1),
        prepare=settings.prepared_statements,
    )
    away = away_of(settings, {})
    checkpoints = PostgresCheckpoints(database, away=away, relay=relay)
    await checkpoints.open()
    try:
        return await work(checkpoints)
    finally:
        await checkpoints.close()


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
