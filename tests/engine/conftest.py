"""The ports of the engine over this worker's database; threads keep apart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.engine.engine_store import EngineStore
from threadmill.checkpoints.away import Away
from threadmill.checkpoints.redis.chunk_store import RedisChunks
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.redis.database import RedisDatabase


@pytest_asyncio.fixture
async def engine_store(
    request: pytest.FixtureRequest, shared_database_uri: str
) -> AsyncIterator[EngineStore]:
    """The ports of the engine; what a test leaves behind does no harm to the next.

    With the parameter `redis`, what checkpoints hold lies there.
    """
    database = Database(
        shared_database_uri, name="engine tests", limits=Limits(pool_max=8)
    )
    store = EngineStore(database, shared_database_uri, _away(request))
    await store.open()
    yield store
    await store.close()


def _away(request: pytest.FixtureRequest) -> Callable[[], Away | None]:
    if getattr(request, "param", "postgres") == "postgres":
        return lambda: None
    uri: str = request.getfixturevalue("redis_uri")
    return lambda: Away(RedisChunks(RedisDatabase(uri)))
