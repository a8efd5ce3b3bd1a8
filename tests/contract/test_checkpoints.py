"""The `Checkpoints` port on PostgreSQL."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures.claims import Claims
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.domain.fence import Fence
from threadmill.drivers.postgres.database import Database
from threadmill.testing.checkpoints import ActivationState
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


class TestPostgresCheckpoints(CheckpointsContract):
    """All of the contract."""

    @pytest.fixture
    def harness(self, database: Database, database_uri: str) -> PostgresHarness:
        """The adapter on a database of its own."""
        return PostgresHarness(database_uri, PostgresCheckpoints(database))
