"""What a list of threads shows of their states: of each what there is, or nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.checkpoints.graphs import delta
from tests.stores.run_store import TENANT, RunStore, put
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.postgres.sql import Query
from threadmill.engine.states import States
from threadmill.errors import StoreUnavailable
from threadmill.stores.records import Thread

_GONE = Query(
    "gone",
    b"DELETE FROM threadmill.thread"
    b" WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s",
)


def states_of(store: RunStore, checkpoints: Any) -> States:
    """They read a graph whose heads hold differences only."""
    graph = SimpleNamespace(graph=delta().compile())
    graphs: Any = SimpleNamespace(get=lambda _: graph)
    nothing: Any = None
    return States(
        threads=store.threads,
        graphs=graphs,
        checkpoints=checkpoints,
        saver=nothing,
        hints=nothing,
        member=uuid4(),
        lease_seconds=10,
    )


async def thread_with_state(store: RunStore, **metadata: str) -> Thread:
    thread_id = uuid4()
    await store.threads.create(TENANT, thread_id, metadata=metadata, if_exists="raise")
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await put(store, fence, 0, None)
    await store.finish(fence)
    return await store.threads.get(TENANT, thread_id)


async def test_a_list_survives_a_thread_that_is_being_deleted(
    database: Database,
) -> None:
    """Its head was read before, and the history that completes it is not there."""
    store = RunStore(database)
    gone = await thread_with_state(store, graph_id="delta")
    fine = await thread_with_state(store)
    async with database.tenant_tx(TENANT) as tx:
        tx.add(_GONE, tenant=TENANT, thread_id=gone.thread_id)
    states = states_of(store, store.checkpoints)
    shown = [g.values async for g in states.glances(TENANT, [gone, fine])]
    assert shown == [None, {}]


async def test_when_a_read_fails_no_other_goes_on(database: Database) -> None:
    store = RunStore(database)
    threads = [await store.threads.get(TENANT, await store.thread()) for _ in range(3)]
    reading: set[UUID] = set()

    async def read(_tenant: str, thread_id: str, _ns: str) -> None:
        if UUID(thread_id) == threads[-1].thread_id:
            raise StoreUnavailable
        reading.add(UUID(thread_id))
        try:
            await asyncio.Event().wait()
        finally:
            reading.discard(UUID(thread_id))

    states = states_of(store, SimpleNamespace(get=read))
    with pytest.raises(StoreUnavailable):
        await anext(states.glances(TENANT, threads))
    assert reading == set()
