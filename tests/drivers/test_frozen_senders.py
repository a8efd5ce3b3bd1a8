"""A process that stops in the middle of sending does not keep what it has locked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from uuid import UUID, uuid4

import psycopg
import pytest

from threadmill.drivers.postgres.database import Database
from threadmill.stores.postgres.threads import PostgresThreads

pytestmark = pytest.mark.timeout(60)

# Locks the thread, then sends more than any socket buffers, without being read from.
_SENDER = """
import asyncio, sys
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.postgres.sql import Query

LOCK = Query("lock", b"UPDATE threadmill.thread SET updated_at = now()"
                     b" WHERE thread_id = %(thread_id)s::uuid RETURNING 1")
SWALLOW = Query("swallow", b"SELECT pg_sleep(%(seconds)s), length(%(text)s)")

async def main():
    database = Database(sys.argv[1], name="sender",
                        limits=Limits(statement_timeout_seconds=2,
                                      idle_in_transaction_seconds=1))
    await database.open()
    async with database.tenant_tx("default") as tx:
        tx.add(LOCK, thread_id=sys.argv[2])
        tx.add(SWALLOW, seconds=0.5, text="")
        tx.add(SWALLOW, seconds=0.0, text="x" * 200_000_000)

asyncio.run(main())
"""


async def test_its_locks_are_free_after_a_while(
    database: Database, database_uri: str
) -> None:
    with psycopg.connect(database_uri) as connection:
        if connection.info.server_version < 170000:
            pytest.skip("PostgreSQL knows transaction_timeout since 17")
    threads, thread_id = PostgresThreads(database), uuid4()
    await threads.create("default", thread_id, metadata={}, if_exists="raise")
    sender = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SENDER, database_uri, str(thread_id)
    )
    try:
        await _until_it_sleeps(database_uri)
        os.kill(sender.pid, signal.SIGSTOP)
        await _update(database_uri, thread_id)
    finally:
        sender.kill()
        await sender.wait()


async def _until_it_sleeps(uri: str) -> None:
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as looking:
        while True:
            found = await looking.execute(
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'sender'"
                " AND wait_event = 'PgSleep'"
            )
            if await found.fetchone():
                return


async def _update(uri: str, thread_id: UUID) -> None:
    """Waits for the thread's lock as long as the fixture's timeout lets it."""
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as other:
        await other.execute(
            "UPDATE threadmill.thread SET updated_at = now() WHERE thread_id = %s",
            [thread_id],
        )
