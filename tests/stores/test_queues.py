"""What waits is counted by the labels that it needs, of all tenants together."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from tests.stores.run_store import RunStore
from threadmill.domain.run import RunEvent
from threadmill.stores.operations import Queue
from threadmill.stores.postgres.queues import PostgresQueues
from threadmill.stores.records import NewDeadLetter


async def queues(store: RunStore) -> dict[tuple[str, ...], Queue]:
    found = await PostgresQueues(store.database).list()
    return {tuple(queue.labels): queue for queue in found}


async def test_nothing_waits_is_an_answer(store: RunStore) -> None:
    assert await queues(store) == {(): Queue(labels=())}


async def test_each_kind_of_waiting_is_told_apart(store: RunStore) -> None:
    busy, idle = await store.thread(), await store.thread()
    await store.accept(busy)
    await store.claim()
    await store.accept(busy)
    await store.accept(idle)
    await store.accept(await store.thread(), after_seconds=60.0)
    found = (await queues(store))[()]
    assert found.oldest_runnable_seconds > 0
    assert replace(found, oldest_runnable_seconds=0) == Queue(
        labels=(), runnable=1, running=1, blocked=1, delayed=1
    )


async def test_labels_have_queues_of_their_own(store: RunStore) -> None:
    await store.accept(await store.thread(), labels=["eu", "gpu"])
    await store.accept(await store.thread())
    found = await queues(store)
    assert {labels: queue.runnable for labels, queue in found.items()} == {
        (): 1,
        ("eu", "gpu"): 1,
    }


async def test_the_tasks_of_a_superstep_count_one_by_one(store: RunStore) -> None:
    run = await store.accept(await store.thread())
    await store.spread(run.run_id, uuid4())
    found = await queues(store)
    plain, gpu = found[()], found["gpu",]
    assert (plain.running, plain.runnable, plain.blocked) == (2, 1, 1)
    assert (gpu.running, gpu.runnable, gpu.blocked) == (0, 1, 0)


async def test_dead_letters_count_for_what_they_need(store: RunStore) -> None:
    await store.accept(await store.thread(), labels=[])
    fence, _ = await store.begin()
    cause = {"error": "RuntimeError", "message": "gave up"}
    dead = NewDeadLetter(cause=cause, attempts=5)
    await store.finish(fence, RunEvent.FAIL, error=cause, dead=dead)
    assert await queues(store) == {(): Queue(labels=(), dead_letters=1)}


async def test_all_tenants_count(store: RunStore) -> None:
    for tenant in ("one", "two"):
        await store.threads.create(tenant, thread := uuid4(), metadata={}, if_exists="")
        await store.accept_for(tenant, thread)
    assert (await queues(store))[()].runnable == 2
