"""The partitions that are there to be chosen: nothing behaves otherwise with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from langgraph.graph import START, StateGraph

from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.stores.postgres.inspection import PostgresInspection

SCRIPT = Path(__file__).parents[2] / "deploy" / "postgresql" / "hash_partitions.sql"
THREADS, PARTITIONS = 12, 16


@pytest_asyncio.fixture
async def fresh(fresh_database_uri: str) -> AsyncIterator[Database]:
    database = Database(fresh_database_uri, name="partitions", limits=Limits())
    await database.open()
    yield database
    await database.close()


def _partition(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(SCRIPT.read_bytes())


def _graph(saver: PostgresSaver) -> Any:
    builder: Any = StateGraph(dict)
    builder.add_node("count", lambda state: {"n": state["n"] + 1, "text": "x" * 1000})
    builder.add_edge(START, "count")
    return builder.compile(checkpointer=saver)


async def test_conversations_in_partitions(
    fresh: Database, fresh_database_uri: str
) -> None:
    _partition(fresh_database_uri)
    store = PostgresCheckpoints(fresh)
    graph = _graph(PostgresSaver(store))
    threads = [str(uuid4()) for _ in range(THREADS)]
    for turn in range(2):
        for thread in threads:
            config = {"configurable": {"thread_id": thread}}
            found = await graph.ainvoke({"n": turn}, config, durability="sync")
            assert found["n"] == turn + 1
    await Upkeep(store).prune("default", threads[:1])
    await store.delete_thread("default", threads[1])
    with psycopg.connect(fresh_database_uri) as connection:
        rows: dict[str, int] = dict(
            connection.execute(
                "SELECT thread_id, count(*) FROM threadmill.checkpoint GROUP BY 1"
            ).fetchall()
        )
        used = connection.execute(
            "SELECT count(DISTINCT tableoid) FROM threadmill.checkpoint"
        ).fetchone()
    assert rows == {threads[0]: 1} | dict.fromkeys(threads[2:], 6)
    assert used is not None
    assert used[0] > 1


async def test_security_holds_in_every_partition(fresh_database_uri: str) -> None:
    """As the doctor sees it."""
    _partition(fresh_database_uri)
    found = await PostgresInspection(fresh_database_uri, limits=Limits()).schema()
    names = {table.name for table in found.tables}
    assert names >= {f"chunk_{number}" for number in range(PARTITIONS)}
    assert all(t.enabled and t.forced and t.scoped for t in found.tables)
    assert found.leaking == ()


async def test_rows_that_are_there_stay_where_they_are(
    fresh: Database, fresh_database_uri: str
) -> None:
    graph = _graph(PostgresSaver(PostgresCheckpoints(fresh)))
    config = {"configurable": {"thread_id": str(uuid4())}}
    await graph.ainvoke({"n": 0}, config, durability="sync")
    with pytest.raises(psycopg.errors.RaiseException, match="before its first thread"):
        _partition(fresh_database_uri)
    assert (await graph.aget_state(config)).values["n"] == 1
