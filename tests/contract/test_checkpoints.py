"""The `Checkpoints` port on PostgreSQL, Redis and Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.claims import Claims
from tests.fixtures.redis_topologies import Nodes
from threadmill.checkpoints.away import Away
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.redis.chunk_store import RedisChunks
from threadmill.checkpoints.redis.store import RedisCheckpoints
from threadmill.domain.fence import Fence
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.redis.database import RedisDatabase
from threadmill.testing.checkpoints import ActivationState
from threadmill.testing.contracts.activations import ActivationsContract
from threadmill.testing.contracts.checkpoints import CheckpointsContract


class PostgresHarness(Claims):
    """Claims, and a look at what a commit changed besides checkpoints."""

    def __init__(self, uri: str, checkpoints: PostgresCheckpoints) -> None:
        super().__init__(uri)
        self.checkpoints = checkpoints

    async def activation(self, fence: Fence) -> ActivationState:
        """See `CheckpointsHarness`."""
        async with await psycopg.AsyncConnection.connect(self.uri) as connection:
            cursor = await connection.execute(
                "SELECT state, attempt, token FROM threadmill.activation"
                " WHERE activation_id = %s",
                (fence.activation_id,),
            )
            row = await cursor.fetchone()
        assert row is not None
        return ActivationState(*row)

    async def events(self, fence: Fence) -> list[str]:
        """See `CheckpointsHarness`."""
        async with await psycopg.AsyncConnection.connect(self.uri) as connection:
            cursor = await connection.execute(
                "SELECT data FROM threadmill.event WHERE thread_id = %s ORDER BY seq",
                (fence.thread_id,),
            )
            return [data for (data,) in await cursor.fetchall()]


class TestPostgresCheckpoints(ActivationsContract):
    """All of the contract."""

    @pytest.fixture
    def harness(self, database: Database, database_uri: str) -> PostgresHarness:
        """The adapter on a database of its own."""
        return PostgresHarness(database_uri, PostgresCheckpoints(database))


class TestPostgresCheckpointsAway(ActivationsContract):
    """The same where Redis or Valkey keeps what the checkpoints hold."""

    @pytest.fixture
    async def harness(
        self, database: Database, database_uri: str, each_redis_uri: str
    ) -> AsyncIterator[PostgresHarness]:
        """The adapter on a database of its own and an empty server."""
        chunks = RedisChunks(RedisDatabase(each_redis_uri))
        await chunks.open()
        checkpoints = PostgresCheckpoints(database, away=Away(chunks))
        yield PostgresHarness(database_uri, checkpoints)
        await chunks.close()


class RedisHarness:
    """Claims as their takers make them known to Redis; tokens come from elsewhere."""

    def __init__(self, checkpoints: RedisCheckpoints) -> None:
        self.checkpoints = checkpoints
        self._tokens = count(1)

    async def claim(self, tenant: str = "default") -> Fence:
        """See `CheckpointsHarness`."""
        return await self._installed(Fence(tenant, uuid4(), uuid4(), 0, uuid4()))

    async def next_run(self, fence: Fence) -> Fence:
        """See `CheckpointsHarness`."""
        thread = str(fence.thread_id)
        await self.checkpoints.raise_floor(fence.tenant, thread, fence.token)
        fence = replace(fence, activation_id=uuid4(), run_id=uuid4())
        return await self._installed(fence)

    async def take_over(self, fence: Fence) -> Fence:
        """See `CheckpointsHarness`."""
        return await self._installed(replace(fence, attempt=fence.attempt + 1))

    async def _installed(self, fence: Fence) -> Fence:
        fence = replace(fence, token=next(self._tokens))
        await self.checkpoints.install(fence)
        return fence


class TestRedisCheckpoints(CheckpointsContract):
    """All that concerns checkpoints, on Redis and on Valkey."""

    @pytest.fixture
    async def harness(self, each_redis_uri: str) -> AsyncIterator[RedisHarness]:
        """The adapter on an empty server."""
        database = RedisDatabase(each_redis_uri)
        await database.open()
        yield RedisHarness(RedisCheckpoints(database))
        await database.close()


class TestRedisClusterCheckpoints(CheckpointsContract):
    """The same on a Cluster, where no script may touch two threads."""

    @pytest.fixture
    async def harness(self, redis_cluster: Nodes) -> AsyncIterator[RedisHarness]:
        """The adapter on three empty nodes."""
        database = RedisDatabase(redis_cluster.uri)
        await database.open()
        yield RedisHarness(RedisCheckpoints(database))
        await database.close()
