"""What threads take, by channel, and that measuring it is bounded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from tests.stores.run_store import TENANT, RunStore
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.sizes import PostgresSizes
from threadmill.drivers.postgres.database import Database
from threadmill.engine.measure import Measure
from threadmill.errors import InvalidRequest, NotFound
from threadmill.stores.storage import Channel, Channels
from threadmill.testing.checkpoints import put, writes

# Nothing that could be compressed: so bytes are what they seem.
DOCUMENT = os.urandom(4000)


@dataclass
class Scale:
    """Threads to be measured."""

    store: RunStore
    checkpoints: PostgresCheckpoints
    measure: Measure
    uri: str

    async def thread(self, n: int = 1, graph_id: str = "g", **values: Any) -> UUID:
        """One with `n` checkpoints of these values."""
        thread_id = uuid4()
        await self.store.threads.create(
            TENANT, thread_id, metadata={"graph_id": graph_id}, if_exists="raise"
        )
        for i in range(n):
            commit = Commit(
                puts=(put(f"c{i}", f"c{i - 1}" if i else None, count=i, **values),)
            )
            await self.checkpoints.commit(TENANT, str(thread_id), commit)
        return thread_id


@pytest_asyncio.fixture
async def scale(database: Database, database_uri: str) -> Scale:
    checkpoints = PostgresCheckpoints(database)
    measure = Measure(PostgresSizes(database))
    return Scale(RunStore(database), checkpoints, measure, database_uri)


async def test_a_thread_by_its_channels(scale: Scale) -> None:
    thread_id = await scale.thread(3, document=DOCUMENT, note="n" * 20)
    task = writes("c2", "t1", ("answer", os.urandom(500)))
    await scale.checkpoints.commit(TENANT, str(thread_id), Commit(writes=(task,)))
    (size,) = (await scale.measure.one(TENANT, thread_id)).threads
    assert size.channels is not None
    channels = size.channels.by_name
    assert set(channels) == {"answer", "count", "document", "note"}
    # Stored once, however many checkpoints hold it.
    assert 4000 <= channels["document"].chunks < 4100
    assert channels["note"] == Channel(inline=3 * 21)
    assert 500 <= channels["answer"].writes < 520
    assert (size.parts.checkpoints, size.graph_id) == (3, "g")
    assert size.parts.chunks == channels["document"].chunks
    assert size.parts.writes == channels["answer"].writes
    assert size.parts.bodies > 0
    assert size.parts.metadata > 0
    shown = size.as_json()
    assert shown["bytes"] == sum(shown["parts"].values())
    assert shown["unattributed"] == 0


async def test_the_sums_are_what_the_tables_hold(scale: Scale) -> None:
    thread_id = await scale.thread(3, document=DOCUMENT)
    (size,) = (await scale.measure.one(TENANT, thread_id)).threads
    async with await psycopg.AsyncConnection.connect(scale.uri) as connection:
        cursor = await connection.execute(
            "SELECT (SELECT sum(octet_length(body)) FROM threadmill.checkpoint),"
            " (SELECT sum(octet_length(data)) FROM threadmill.chunk)"
        )
        assert await cursor.fetchone() == (size.parts.bodies, size.parts.chunks)


async def test_what_only_older_checkpoints_name_is_no_channels(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadmill.engine.measure._LOOKED_INTO_ALONE", 1)
    thread_id = await scale.thread(1, document=DOCUMENT)
    new = put("c9", "c0", document=os.urandom(2000))
    await scale.checkpoints.commit(TENANT, str(thread_id), Commit(puts=(new,)))
    (size,) = (await scale.measure.one(TENANT, thread_id)).threads
    shown = size.as_json()
    assert 2000 <= shown["channels"]["document"]["chunks"] < 2100
    assert 4000 <= shown["unattributed"] < 4100


async def test_checkpoints_that_were_stored_whole_have_no_channels(
    scale: Scale, database: Database
) -> None:
    thread_id = await scale.thread(0)
    whole = PostgresCheckpoints(database, Codec(whole=True))
    new = put("c0", document=DOCUMENT)
    await whole.commit(TENANT, str(thread_id), Commit(puts=(new,)))
    (size,) = (await scale.measure.one(TENANT, thread_id)).threads
    assert (size.channels, size.parts.chunks) == (Channels(), 0)
    assert size.parts.bodies > 4000


async def test_the_largest_come_first_and_graphs_are_summed_up(scale: Scale) -> None:
    small = await scale.thread(1, graph_id="a")
    large = await scale.thread(1, graph_id="b", document=DOCUMENT)
    await scale.thread(1, graph_id="a")
    found = await scale.measure(TENANT, shown=1)
    assert [size.thread_id for size in found.threads] == [large]
    assert found.threads[0].channels is not None
    assert (found.scanned, found.cursor) == (3, None)
    assert {
        graph: (size.threads, size.parts.checkpoints)
        for graph, size in found.graphs.items()
    } == {"a": (2, 2), "b": (1, 1)}
    of_graph = await scale.measure(TENANT, graph_id="a")
    assert of_graph.scanned == 2
    assert small in [size.thread_id for size in of_graph.threads]
    assert of_graph.graphs["a"] == found.graphs["a"]


async def test_a_graph_by_the_channels_of_its_largest_threads(scale: Scale) -> None:
    for size in (3000, 2000):
        await scale.thread(2, graph_id="a", document=os.urandom(size), note="n" * 20)
    other = await scale.thread(1, graph_id="b", answer=os.urandom(1000))
    task = writes("c0", "t1", ("result", os.urandom(500)))
    await scale.checkpoints.commit(TENANT, str(other), Commit(writes=(task,)))
    found = await scale.measure(TENANT, shown=1)
    shown = found.as_json()["graphs"]
    assert (shown["a"]["threads"], shown["a"]["sample"]["threads"]) == (2, 2)
    assert shown["a"]["sample"]["bytes"] == shown["a"]["bytes"]
    assert set(shown["a"]["channels"]) == {"count", "document", "note"}
    assert 5000 <= shown["a"]["channels"]["document"]["chunks"] < 5200
    assert shown["a"]["channels"]["note"] == Channel(inline=2 * 2 * 21).as_json()
    assert set(shown["b"]["channels"]) == {"answer", "count", "result"}
    assert 500 <= shown["b"]["channels"]["result"]["writes"] < 520
    assert shown["b"]["unattributed"] == 0
    # One thread alone: the graph has what it has.
    alone = (await scale.measure.one(TENANT, other)).as_json()
    assert alone["graphs"]["b"]["channels"] == alone["threads"][0]["channels"]


async def test_a_sample_is_bounded_and_every_graph_has_its_largest_in_it(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadmill.engine.measure._SAMPLED", 3)
    for size in (4000, 3500, 3000):
        await scale.thread(1, graph_id="a", document=os.urandom(size))
    for size in (1000, 500):
        await scale.thread(1, graph_id="b", document=os.urandom(size))
    looked_into = []

    class Counted(PostgresSizes):
        async def channels(
            self, tenant: str, thread_id: UUID, *, checkpoints: int
        ) -> Channels:
            looked_into.append(thread_id)
            return await super().channels(tenant, thread_id, checkpoints=checkpoints)

    measure = Measure(Counted(scale.store.database))
    graphs = (await measure(TENANT, shown=1)).as_json()["graphs"]
    assert len(looked_into) == 3
    taken = {
        graph: (size["sample"]["threads"], size["channels"]["document"]["chunks"])
        for graph, size in graphs.items()
    }
    assert taken["a"][0] == 2
    assert 7500 <= taken["a"][1] < 7700
    assert taken["b"][0] == 1
    assert 1000 <= taken["b"][1] < 1100
    assert graphs["a"]["sample"]["bytes"] < graphs["a"]["bytes"]


async def test_pages_sum_up_every_thread_once(scale: Scale) -> None:
    threads = {await scale.thread(1) for _ in range(5)}
    for graph_id in (None, "g"):
        seen: list[UUID] = []
        cursor = None
        while True:
            found = await scale.measure(
                TENANT, graph_id=graph_id, scan=2, cursor=cursor
            )
            assert found.scanned <= 2
            seen += [size.thread_id for size in found.threads]
            cursor = found.cursor
            if cursor is None:
                break
        assert (set(seen), len(seen)) == (threads, 5)


async def test_another_tenants_threads_are_not_measured(scale: Scale) -> None:
    thread_id = await scale.thread(1)
    await scale.thread(1)
    assert (await scale.measure("somebody")).scanned == 0
    with pytest.raises(NotFound):
        await scale.measure.one("somebody", thread_id)
    cursor = (await scale.measure(TENANT, scan=1)).cursor
    with pytest.raises(InvalidRequest, match="cursor"):
        await scale.measure("somebody", cursor=cursor)
