"""The ports of the engine over this worker's database; threads keep apart."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.engine.engine_store import EngineStore
from threadmill.drivers.postgres.database import Database, Limits


@pytest_asyncio.fixture
async def engine_store(shared_database_uri: str) -> AsyncIterator[EngineStore]:
    """The ports of the engine; what a test leaves behind does no harm to the next."""
    database = Database(
        shared_database_uri, name="engine tests", limits=Limits(pool_max=8)
    )
    await database.open()
    store = EngineStore(database, shared_database_uri)
    yield store
    await store.close()
    await database.close()
