"""The `Stream` port on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from tests.stores.run_store import RunStore
from threadmill.checkpoints.base import Commit
from threadmill.domain.fence import Fence
from threadmill.drivers.postgres.database import Database
from threadmill.streams.base import NewEvent
from threadmill.streams.postgres import PostgresStream
from threadmill.testing.contracts.streams import StreamsContract


class PostgresHarness:
    """Runs of a database, whose commits append."""

    def __init__(self, database: Database) -> None:
        self.store = RunStore(database)
        self.stream = PostgresStream(database)

    async def begin(
        self, thread_id: UUID | None = None, *, tenant: str = "default"
    ) -> Fence:
        """See `StreamsHarness`."""
        await self.store.accept_for(
            tenant, thread_id or uuid4(), create_thread=thread_id is None
        )
        fence, _ = await self.store.begin()
        return fence

    async def take_over(self, fence: Fence) -> Fence:
        """See `StreamsHarness`."""
        del fence
        await self.store.let_leases_expire()
        await self.store.dispatcher.reopen([], backoff_seconds=0, limit=10)
        again, _ = await self.store.begin()
        return again

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> None:
        """See `StreamsHarness`."""
        await self.store.checkpoints.commit(
            fence.tenant, str(fence.thread_id), Commit(events=events), fence
        )

    async def finish(self, fence: Fence, events: Sequence[NewEvent] = ()) -> None:
        """See `StreamsHarness`."""
        await self.store.finish(fence, events=events)


class TestPostgresStream(StreamsContract):
    """All of the contract."""

    @pytest.fixture
    def harness(self, database: Database) -> PostgresHarness:
        """The adapter on a database of its own."""
        return PostgresHarness(database)
