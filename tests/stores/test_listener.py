"""Hints over PostgreSQL: what arrives, and what must not end the listening."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from tests.fixtures.ways import Way
from threadmill.brokers.base import Hint
from threadmill.brokers.postgres import PostgresHints, PostgresListener
from threadmill.drivers.postgres.database import Database

pytestmark = pytest.mark.timeout(30)


class Receiver:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    def on_ready(self, graph_id: str | None) -> None:
        self.told.put_nowait(("ready", graph_id))

    def on_moved(self, tenant: str | None, thread_id: UUID | None) -> None:
        self.told.put_nowait(("moved", tenant, thread_id))

    def on_stop(self, activation_id: UUID, token: int) -> None:
        self.told.put_nowait(("stop", activation_id, token))


async def test_hints_reach_other_processes_and_foreign_ones_do_no_harm(
    database: Database, database_uri: str
) -> None:
    receiver = Receiver()
    listener = PostgresListener(database_uri, [receiver], origin="here")
    hints = PostgresHints(database, origin="there")
    await listener.start()
    await hints.start()
    try:
        assert await receiver.told.get() == ("ready", None)
        assert await receiver.told.get() == ("moved", None, None)
        with psycopg.connect(database_uri, autocommit=True) as somebody:
            for payload in ("", "x", "x moved not-a-uuid", "x stop 1 2", "x new a b"):
                somebody.execute("SELECT pg_notify('threadmill', %s)", [payload])
        thread_id, activation_id = uuid4(), uuid4()
        hints.ready(Hint("a graph"))
        assert await receiver.told.get() == ("ready", "a graph")
        hints.moved("a tenant", thread_id)
        assert await receiver.told.get() == ("moved", "a tenant", thread_id)
        hints.stop(activation_id, 7)
        assert await receiver.told.get() == ("stop", activation_id, 7)
    finally:
        await hints.close()
        await listener.close()


async def test_a_broken_session_is_told_once_however_often_it_is_tried(
    way: Way,
) -> None:
    receiver = Receiver()
    listener = PostgresListener(
        way.conninfo, [receiver], origin="here", retry_seconds=0.01
    )
    with capture_logs() as logs:
        await listener.start()
        assert await receiver.told.get() == ("ready", None)
        assert await receiver.told.get() == ("moved", None, None)
        way.cut()
        for _ in range(4):
            await way.refused.get()
        way.mend()
        # Hints may have been missed.
        assert await receiver.told.get() == ("ready", None)
        await listener.close()
    assert [log["event"] for log in logs] == ["listener.broken", "listener.recovered"]
    assert logs[0]["cause"]
