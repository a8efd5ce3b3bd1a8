"""What whoever runs a fleet works with, from settings to objects.

Names adapters, as `composition` does, which hands the same to the servers. Apart from
it because that imports LangGraph with everything that stands on it: a command that
looks at the database must answer at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from threadmill.brokers.postgres import PostgresHints
from threadmill.drivers.postgres.configured import database_uri, limits_of
from threadmill.drivers.postgres.database import Database
from threadmill.engine.explain import Explain
from threadmill.engine.redrive import Redrive
from threadmill.stores.postgres.dead_letters import PostgresDeadLetters
from threadmill.stores.postgres.explanations import PostgresExplanations
from threadmill.stores.postgres.fleet import PostgresFleet
from threadmill.stores.postgres.queues import PostgresQueues
from threadmill.stores.postgres.retention import PostgresRetention
from threadmill.stores.records import Retention

if TYPE_CHECKING:
    from threadmill.brokers.base import Hints
    from threadmill.settings import Settings
    from threadmill.stores.operations import DeadLetters, Fleet, Queues
    from threadmill.stores.retention import RetentionStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """Dead letters, the fleet, what waits and why, how long a tenant's threads stay."""

    dead_letters: DeadLetters
    redrive: Redrive
    explain: Explain
    fleet: Fleet
    queues: Queues
    retention: RetentionStore


def retention_of(settings: Settings) -> Retention:
    """How long what a finished run leaves behind is kept."""
    return Retention(
        events_seconds=settings.stream_ttl_seconds,
        temporary_seconds=settings.stateless_ttl_seconds,
    )


def operations_over(database: Database, hints: Hints, settings: Settings) -> Operations:
    """The same over an open database."""
    dead_letters = PostgresDeadLetters(database, retention_of(settings))
    return Operations(
        dead_letters=dead_letters,
        redrive=Redrive(dead_letters, hints, queue_max=settings.queue_per_thread_max),
        explain=Explain(
            PostgresExplanations(database), silent_seconds=settings.lease_seconds
        ),
        fleet=PostgresFleet(database),
        queues=PostgresQueues(database),
        retention=PostgresRetention(database),
    )


@asynccontextmanager
async def open_operations(settings: Settings) -> AsyncIterator[Operations]:
    """Opens a connection of its own; the process joins no fleet.

    Raises:
        BadSetting: no database is configured.
        StoreUnavailable: the database does not answer.
    """
    name = "threadmill operations"
    database = Database(
        database_uri(settings),
        name=name,
        limits=replace(limits_of(settings), pool_min=1, pool_max=1),
        prepare=settings.prepared_statements,
    )
    await database.open()
    try:
        # Hints are published when they are closed: a command is over soon.
        hints = PostgresHints(database, origin=str(uuid4()))
        try:
            yield operations_over(database, hints, settings)
        finally:
            await hints.close()
    finally:
        await database.close()
