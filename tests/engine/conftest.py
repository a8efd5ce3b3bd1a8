"""One migrated database for all engine tests of a test process; threads keep apart."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.engine.engine_store import EngineStore
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.postgres.migrate import migrate


@pytest.fixture(scope="session")
def engine_uri(postgres_server: str) -> Iterator[str]:
    """The URI of a database that every engine test of this process shares."""
    name = f"engine_{secrets.token_hex(8)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    uri = urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    asyncio.run(migrate(uri))
    yield uri
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        drop = SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name))
        connection.execute(drop)


@pytest.fixture
async def engine_store(engine_uri: str) -> AsyncIterator[EngineStore]:
    """The ports of the engine over that database."""
    database = Database(engine_uri, name="engine tests", limits=Limits(pool_max=8))
    await database.open()
    store = EngineStore(database, engine_uri)
    yield store
    await store.close()
    await database.close()
