"""A pooler that dies is a database that is away, until it is there again."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.pooler import Pooler
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.postgres.sql import Query
from threadmill.errors import StoreUnavailable

INSERT = Query(
    "insert",
    b"INSERT INTO threadmill.idempotency (tenant_id, key, body_hash, run_id) "
    b"VALUES (threadmill.tenant(), %(key)s, '', gen_random_uuid())",
)
# The pool tries again after a pause that doubles.
_BACK_SECONDS = 30.0
KEYS = Query("keys", b"SELECT key FROM threadmill.idempotency ORDER BY key")


async def test_a_pooler_that_dies_and_comes_back(pooler: Pooler) -> None:
    """Its clients' connections break; none of them is used again."""
    limits = Limits(pool_max=1, pool_timeout_seconds=0.3)
    database = Database(pooler.uri, name="test", limits=limits, prepare=False)
    await database.open()
    try:
        await _insert(database, "before")
        pooler.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await _insert(database, "away")
        pooler.start()
        async with asyncio.timeout(_BACK_SECONDS):
            while not await _is_there(database):
                continue
        await _insert(database, "after")
        async with database.tenant_tx("acme", read_only=True) as tx:
            found = tx.add(KEYS)
        assert [row["key"] for row in found.rows] == ["after", "before"]
    finally:
        await database.close()


async def _insert(database: Database, key: str) -> None:
    async with database.tenant_tx("acme") as tx:
        tx.add(INSERT, key=key)


async def _is_there(database: Database) -> bool:
    try:
        async with database.tenant_tx("acme", read_only=True) as tx:
            tx.add(KEYS)
    except StoreUnavailable:
        return False
    return True
