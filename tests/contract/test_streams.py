"""The `Stream` port on PostgreSQL, read there and through a relay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest

from tests.stores.run_store import RunStore
from threadmill.checkpoints.base import Commit
from threadmill.domain.fence import Fence
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.redis.database import RedisDatabase
from threadmill.streams.base import NewEvent, Stream
from threadmill.streams.postgres import PostgresStream
from threadmill.streams.redis.relay import RedisRelay
from threadmill.streams.relay import Relay
from threadmill.streams.relayed import RelayedStream
from threadmill.testing.contracts.streams import StreamsContract


class PostgresHarness:
    """Runs of a database, whose commits append."""

    def __init__(self, database: Database, relay: Relay | None = None) -> None:
        self.store = RunStore(database, relay)
        self.stream: Stream = PostgresStream(database)
        if relay is not None:
            # Whatever the copy says is believed, but for the first look.
            self.stream = RelayedStream(self.stream, relay, trust_seconds=3600)

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


class TestRelayedStream(StreamsContract):
    """The same where Redis or Valkey is read in between."""

    @pytest.fixture
    async def harness(
        self, database: Database, each_redis_uri: str
    ) -> AsyncIterator[PostgresHarness]:
        """The adapter on a database of its own and an empty server."""
        relay = RedisRelay(RedisDatabase(each_redis_uri), ttl_seconds=60)
        await relay.open()
        yield PostgresHarness(database, relay)
        await relay.close()
