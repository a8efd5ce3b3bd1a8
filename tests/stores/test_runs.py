"""Accepting runs: order, idempotency, busy threads, delays, and cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.stores.run_store import (
    TENANT,
    RunStore,
    contract,
    new_run,
    until_somebody_waits,
)
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.domain.run import RunStatus, ThreadStatus
from threadmill.errors import (
    AlreadyExists,
    Conflict,
    LeaseLost,
    NotFound,
    Overloaded,
    ThreadBusy,
)

REJECT = MultitaskStrategy.REJECT


# -------------------------------------------------------------------------- accepting


@contract
async def test_a_run_on_a_free_thread_is_ready_at_once(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id)
    assert run.status is RunStatus.PENDING
    assert run.seq == 1
    (activation,) = await store.activations(thread_id)
    assert (activation["run_id"], activation["state"]) == (run.run_id, "ready")
    assert await store.holder(thread_id) == run.run_id
    thread = await store.threads.get(TENANT, thread_id)
    assert thread.status is ThreadStatus.BUSY


@contract
async def test_later_runs_wait_in_the_order_of_acceptance(store: RunStore) -> None:
    thread_id = await store.thread()
    accepted = [await store.accept(thread_id) for _ in range(4)]
    assert [run.seq for run in accepted] == [1, 2, 3, 4]
    assert len(await store.activations(thread_id)) == 1
    ran = []
    for _ in accepted:
        fence, run = await store.begin()
        ran.append(run.run_id)
        await store.finish(fence)
    assert ran == [run.run_id for run in accepted]


@contract
async def test_fifty_at_once_keep_an_order_without_gaps(store: RunStore) -> None:
    thread_id = await store.thread()
    accepted = await asyncio.gather(*(store.accept(thread_id) for _ in range(50)))
    assert sorted(run.seq for run in accepted) == list(range(1, 51))
    assert len(await store.activations(thread_id)) == 1
    assert await store.holder(thread_id) in {run.run_id for run in accepted}


@contract
async def test_a_thread_that_is_not_there_is_refused_or_made(store: RunStore) -> None:
    thread_id = uuid4()
    with pytest.raises(NotFound):
        await store.accept(thread_id)
    made = await asyncio.gather(
        *(store.accept(thread_id, create_thread=True) for _ in range(8))
    )
    assert sorted(run.seq for run in made) == list(range(1, 9))


@contract
async def test_a_runs_id_is_taken_once(store: RunStore) -> None:
    thread_id, run_id = await store.thread(), uuid4()
    await store.accept(thread_id, run_id=run_id)
    with pytest.raises(AlreadyExists):
        await store.accept(thread_id, run_id=run_id)
    assert len(await store.statuses(thread_id)) == 1


@contract
async def test_what_a_run_says_of_its_thread_is_merged(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id, thread_metadata={"graph_id": "a", "kept": 1})
    await store.accept(thread_id, thread_metadata={"graph_id": "b"})
    thread = await store.threads.get(TENANT, thread_id)
    assert thread.metadata == {"graph_id": "b", "kept": 1}


@contract
async def test_another_tenant_sees_nothing(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id)
    with pytest.raises(NotFound):
        await store.runs.get("other", run.run_id)
    assert await store.runs.list("other", thread_id, limit=10, offset=0) == []
    with pytest.raises(NotFound):
        await store.runs.cancel("other", thread_id, run.run_id)
    with pytest.raises(NotFound):
        await store.runs.accept("other", new_run(thread_id))


# ------------------------------------------------------------------------ idempotency


@contract
async def test_a_key_gives_the_same_run(store: RunStore) -> None:
    thread_id = await store.thread()
    first = new_run(thread_id, idempotency_key="k", body_hash=b"body")
    again = new_run(thread_id, idempotency_key="k", body_hash=b"body")
    made = await store.runs.accept(TENANT, first)
    found = await store.runs.accept(TENANT, again)
    assert (made.new, found.new) == (True, False)
    assert found.run.run_id == first.run_id
    assert len(await store.statuses(thread_id)) == 1


@contract
async def test_many_at_once_under_one_key_make_one_run(store: RunStore) -> None:
    thread_id = await store.thread()
    accepted = await asyncio.gather(
        *(
            store.runs.accept(
                TENANT, new_run(thread_id, idempotency_key="k", body_hash=b"body")
            )
            for _ in range(20)
        )
    )
    assert sum(one.new for one in accepted) == 1
    assert len({one.run.run_id for one in accepted}) == 1
    assert len(await store.statuses(thread_id)) == 1


@contract
async def test_a_key_with_another_body_is_refused(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id, idempotency_key="k", body_hash=b"one")
    with pytest.raises(Conflict, match="Idempotency-Key"):
        await store.accept(thread_id, idempotency_key="k", body_hash=b"two")


@contract
async def test_a_refused_request_does_not_take_its_key(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    with pytest.raises(ThreadBusy):
        await store.accept(thread_id, strategy=REJECT, idempotency_key="k")
    run = await store.accept(thread_id, idempotency_key="k")
    assert run.seq == 2


async def test_a_key_is_free_again_after_its_time(store: RunStore) -> None:
    thread_id = await store.thread()
    first = await store.accept(thread_id, idempotency_key="k", body_hash=b"one")
    assert await store.carry_out_due() == ["drop_key"]
    second = await store.accept(thread_id, idempotency_key="k", body_hash=b"two")
    assert second.run_id != first.run_id


async def test_a_key_that_expires_just_now_is_free(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the statement that finds it taken and the look at who has it."""
    thread_id = await store.thread()
    await store.accept(thread_id, idempotency_key="k", body_hash=b"one")
    begin = store.database.tenant_tx

    @asynccontextmanager
    async def expire_first(
        tenant: str, *, read_only: bool = False
    ) -> AsyncIterator[Any]:
        if read_only:
            monkeypatch.undo()
            assert await store.carry_out_due() == ["drop_key"]
        async with begin(tenant, read_only=read_only) as tx:
            yield tx

    monkeypatch.setattr(store.database, "tenant_tx", expire_first)
    second = await store.accept(thread_id, idempotency_key="k", body_hash=b"two")
    assert second.seq == 2
    assert (
        await store.accept(thread_id, idempotency_key="k", body_hash=b"two") == second
    )


# ------------------------------------------------------------------------ busy threads


@contract
async def test_reject_refuses_a_thread_with_a_run_or_a_queue(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id, strategy=REJECT)
    with pytest.raises(ThreadBusy):
        await store.accept(thread_id, strategy=REJECT)
    fence, _ = await store.begin()
    with pytest.raises(ThreadBusy):
        await store.accept(thread_id, strategy=REJECT)
    await store.finish(fence)
    again = await store.accept(thread_id, strategy=REJECT)
    assert (run.seq, again.seq) == (1, 2)


@contract
async def test_of_many_that_reject_at_once_one_passes(store: RunStore) -> None:
    thread_id = await store.thread()

    async def passes() -> bool:
        try:
            await store.accept(thread_id, strategy=REJECT)
        except ThreadBusy:
            return False
        return True

    passed = await asyncio.gather(*(passes() for _ in range(12)))
    assert sum(passed) == 1
    assert len(await store.statuses(thread_id)) == 1


@contract
async def test_a_full_queue_refuses(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id, queue_max=2)
    await store.accept(thread_id, queue_max=2)
    with pytest.raises(Overloaded, match="THREADMILL_QUEUE_PER_THREAD_MAX"):
        await store.accept(thread_id, queue_max=2)
    fence, _ = await store.begin()
    await store.accept(thread_id, queue_max=2)
    await store.finish(fence)
    assert len(await store.statuses(thread_id)) == 3


# ----------------------------------------------------------------------------- delays


@contract
async def test_a_delayed_run_leaves_the_thread_free(store: RunStore) -> None:
    thread_id = await store.thread()
    delayed = await store.accept(thread_id, after_seconds=3600)
    assert await store.activations(thread_id) == []
    thread = await store.threads.get(TENANT, thread_id)
    assert thread.status is ThreadStatus.IDLE
    now = await store.accept(thread_id)
    fence, run = await store.begin()
    assert run.run_id == now.run_id
    assert await store.finish(fence) is None
    assert ("promote", str(delayed.run_id)) in await store.timers()


@contract
async def test_a_delayed_run_begins_when_it_is_due(store: RunStore) -> None:
    thread_id = await store.thread()
    delayed = await store.accept(thread_id, after_seconds=0.001)
    assert "promote" in await store.carry_out_due()
    _, run = await store.begin()
    assert run.run_id == delayed.run_id


@contract
async def test_a_delayed_run_waits_for_a_busy_thread(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    delayed = await store.accept(thread_id, after_seconds=0.001)
    fence, _ = await store.begin()
    assert "promote" in await store.carry_out_due()
    assert len(await store.activations(thread_id)) == 1
    following = await store.finish(fence)
    assert following is not None
    assert following.run_id == delayed.run_id


@contract
async def test_cancelling_a_delayed_run_lets_a_free_thread_be(store: RunStore) -> None:
    thread_id = await store.thread()
    delayed = await store.accept(thread_id, after_seconds=3600)
    cancelled = await store.runs.cancel(TENANT, thread_id, delayed.run_id)
    assert cancelled.run.status is RunStatus.INTERRUPTED
    assert cancelled.next is None
    assert await store.holder(thread_id) is None
    assert "promote" not in await store.carry_out_due()
    assert await store.activations(thread_id) == []


@contract
async def test_a_free_thread_shows_nothing_of_a_cancelled_delayed_run(
    store: RunStore,
) -> None:
    thread_id = await store.thread()
    delayed = await store.accept(thread_id, after_seconds=3600)
    await store.runs.cancel(TENANT, thread_id, delayed.run_id)
    thread = await store.threads.get(TENANT, thread_id)
    assert thread.status is ThreadStatus.IDLE


# ------------------------------------------------------------------ looking, removing


async def test_a_list_is_newest_first_by_pages_and_status(store: RunStore) -> None:
    thread_id = await store.thread()
    made = [(await store.accept(thread_id)).run_id for _ in range(5)]
    await store.begin()

    async def page(limit: int, offset: int, status: str | None = None) -> list:
        found = await store.runs.list(
            TENANT, thread_id, limit=limit, offset=offset, status=status
        )
        return [run.run_id for run in found]

    assert await page(10, 0) == made[::-1]
    assert await page(2, 1) == made[::-1][1:3]
    assert await page(10, 0, "running") == [made[0]]
    assert await page(10, 0, "success") == []


@contract
async def test_a_run_is_found_on_its_own_thread_only(store: RunStore) -> None:
    thread_id, other = await store.thread(), await store.thread()
    run = await store.accept(thread_id)
    assert (await store.runs.get(TENANT, run.run_id, thread_id)).seq == 1
    with pytest.raises(NotFound):
        await store.runs.get(TENANT, run.run_id, other)


async def test_only_an_ended_run_is_deleted(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id)
    with pytest.raises(Conflict, match="cancel it first"):
        await store.runs.delete(TENANT, thread_id, run.run_id)
    fence, _ = await store.begin()
    with pytest.raises(Conflict):
        await store.runs.delete(TENANT, thread_id, run.run_id)
    await store.finish(fence)
    await store.runs.delete(TENANT, thread_id, run.run_id)
    with pytest.raises(NotFound):
        await store.runs.delete(TENANT, thread_id, run.run_id)


async def test_a_run_that_is_just_being_deleted_is_not_found(
    store: RunStore, database_uri: str
) -> None:
    """It is not "pending or running"."""
    thread_id = await store.thread()
    run = await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence)
    async with await psycopg.AsyncConnection.connect(database_uri) as deleting:
        await deleting.execute("DELETE FROM threadmill.run")
        late = asyncio.create_task(store.runs.delete(TENANT, thread_id, run.run_id))
        await until_somebody_waits(database_uri)
        await deleting.commit()
    with pytest.raises(NotFound):
        await late


# -------------------------------------------------------------------------- cancelling


@contract
async def test_cancelling_a_running_run_hands_the_thread_on(store: RunStore) -> None:
    thread_id = await store.thread()
    first, second = [await store.accept(thread_id) for _ in range(2)]
    fence, _ = await store.begin()
    cancelled = await store.runs.cancel(TENANT, thread_id, first.run_id)
    assert cancelled.run.status is RunStatus.INTERRUPTED
    assert cancelled.run.finished_at is not None
    assert list(cancelled.activations) == [(fence.activation_id, fence.token)]
    assert cancelled.next is not None
    assert cancelled.next.run_id == second.run_id
    assert await store.holder(thread_id) == second.run_id
    with pytest.raises(LeaseLost):
        await store.finish(fence)


@contract
async def test_cancelling_a_waiting_run_takes_it_out_of_the_queue(
    store: RunStore,
) -> None:
    thread_id = await store.thread()
    first, second, third = [await store.accept(thread_id) for _ in range(3)]
    cancelled = await store.runs.cancel(TENANT, thread_id, second.run_id)
    assert cancelled.activations == []
    assert cancelled.next is None
    assert await store.holder(thread_id) == first.run_id
    fence, _ = await store.begin()
    following = await store.finish(fence)
    assert following is not None
    assert following.run_id == third.run_id
    assert await store.statuses(thread_id) == ["success", "interrupted", "pending"]


@contract
async def test_the_last_cancelled_run_leaves_an_interrupted_thread(
    store: RunStore,
) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id)
    await store.runs.cancel(TENANT, thread_id, run.run_id)
    thread = await store.threads.get(TENANT, thread_id)
    assert thread.status is ThreadStatus.INTERRUPTED
    assert await store.holder(thread_id) is None
    assert await store.activations(thread_id) == []


@contract
async def test_what_has_ended_cannot_be_cancelled(store: RunStore) -> None:
    thread_id, other = await store.thread(), await store.thread()
    run = await store.accept(thread_id)
    with pytest.raises(NotFound):
        await store.runs.cancel(TENANT, other, run.run_id)
    with pytest.raises(NotFound):
        await store.runs.cancel(TENANT, thread_id, uuid4())
    fence, _ = await store.begin()
    await store.finish(fence)
    with pytest.raises(NotFound):
        await store.runs.cancel(TENANT, thread_id, run.run_id)
    assert await store.statuses(thread_id) == ["success"]


@contract
async def test_reject_looks_at_runs_that_may_begin_only(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id, after_seconds=3600)
    accepted = await store.accept(thread_id, strategy=MultitaskStrategy.REJECT)
    assert await store.holder(thread_id) == accepted.run_id
    with pytest.raises(ThreadBusy):
        await store.accept(thread_id, strategy=MultitaskStrategy.REJECT)


async def test_what_the_graph_is_given_is_kept_as_it_came(store: RunStore) -> None:
    """JSON as PostgreSQL's jsonb keeps it has neither this order nor these floats."""
    given = {"z": 1e22, "aa": [1e16, -0.0, 2**53], "b": "\x00", "a": {"y": 1, "x": 2}}
    run = await store.accept(await store.thread(), kwargs={"input": given})
    kept = (await store.runs.get(TENANT, run.run_id)).kwargs["input"]
    assert repr(kept) == repr(given)
