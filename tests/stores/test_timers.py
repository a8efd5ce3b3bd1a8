"""What is due later: delayed runs, and what is kept for a while only."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.stores.run_store import GRAPH, TENANT, RunStore, contract, put
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.domain.run import RunEvent
from threadmill.errors import InvariantViolated, NotFound
from threadmill.stores.records import Timer
from threadmill.streams.base import NewEvent


@contract
async def test_a_timer_that_is_taken_is_left_alone_for_a_while(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id, after_seconds=0.001)
    (timer,) = await store.dispatcher.due(hold_seconds=60, limit=10)
    assert timer == Timer(TENANT, "promote", timer.ref)
    assert await store.dispatcher.due(hold_seconds=60, limit=10) == []
    await store.dispatcher.carry_out([timer])
    assert await store.timers() == []


@contract
async def test_a_timer_of_a_run_that_has_begun_changes_nothing(store: RunStore) -> None:
    """The delayed run was promoted by the end of another, before its timer."""
    thread_id = await store.thread()
    await store.accept(thread_id)
    delayed = await store.accept(thread_id, after_seconds=0.001)
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence)
    _, run = await store.begin()
    assert run.run_id == delayed.run_id
    assert "promote" in await store.carry_out_due()
    assert await store.holder(thread_id) == delayed.run_id
    assert len(await store.activations(thread_id)) == 1


@contract
async def test_a_timer_may_be_carried_out_twice(store: RunStore) -> None:
    await store.accept(await store.thread(), after_seconds=0.001)
    (timer,) = await store.dispatcher.due(hold_seconds=60, limit=10)
    await store.dispatcher.carry_out([timer])
    await store.dispatcher.carry_out([timer])
    assert len(await store.activations()) == 1


async def test_events_go_after_their_time(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence, events=[NewEvent("last", "{}")])
    assert "drop_events" in await store.carry_out_due()
    assert await store.stream.read(TENANT, thread_id, after=0, limit=10) == []
    # Numbers are not given out twice.
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence, events=[NewEvent("last", "{}")])
    (event,) = await store.stream.read(TENANT, thread_id, after=0, limit=10)
    assert event.seq == 2


async def test_a_stateless_runs_thread_goes_with_all_it_held(store: RunStore) -> None:
    thread_id = uuid4()
    run = await store.accept(
        thread_id,
        create_thread=True,
        temporary=True,
        kwargs={"temporary": True, "stream_mode": ["values"]},
    )
    fence, _ = await store.begin()
    await put(store, fence, 0, None)
    await store.finish(fence, events=[NewEvent("last", "{}")])
    assert "drop_thread" in await store.carry_out_due()
    with pytest.raises(NotFound):
        await store.threads.get(TENANT, thread_id)
    with pytest.raises(NotFound):
        await store.runs.get(TENANT, run.run_id)
    checkpoints = PostgresCheckpoints(store.database)
    assert await checkpoints.get(TENANT, str(thread_id), "") is None


@contract
async def test_a_timer_of_a_run_that_is_gone_is_dropped(store: RunStore) -> None:
    timer = Timer(TENANT, "promote", str(uuid4()))
    assert await store.dispatcher.carry_out([timer]) == []


@contract
async def test_a_timer_of_an_unknown_kind_is_our_bug(store: RunStore) -> None:
    with pytest.raises(InvariantViolated):
        await store.dispatcher.carry_out([Timer(TENANT, "unknown", "ref")])


async def test_many_expire_together(store: RunStore) -> None:
    for n in range(3):
        thread_id = await store.thread()
        await store.accept(thread_id, idempotency_key=f"k{n}")
        fence, _ = await store.begin()
        await store.finish(fence, events=[NewEvent("last", "{}")])
    assert await store.carry_out_due() == ["drop_events"] * 3 + ["drop_key"] * 3
    assert await store.timers() == []
    thread_id = await store.thread()
    again = await store.accept(thread_id, idempotency_key="k0")
    assert again.thread_id == thread_id


async def test_a_key_does_not_show_in_its_timer(store: RunStore) -> None:
    """Timers are seen across tenants."""
    await store.accept(await store.thread(), idempotency_key="order 4711")
    (timer,) = await store.timers()
    assert "4711" not in timer[1]


async def test_the_error_of_a_run_that_streams_nothing_expires_too(
    store: RunStore,
) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id, kwargs={"stream_mode": []})
    fence, _ = await store.begin()
    await store.finish(fence, RunEvent.FAIL, events=[NewEvent("error", "{}")])
    assert await store.carry_out_due() == ["drop_events"]
    assert await store.stream.read(TENANT, thread_id, after=0, limit=10) == []


async def test_a_deleted_runs_events_go_with_it(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence, events=[NewEvent("last", "{}")])
    await store.runs.delete(TENANT, thread_id, run.run_id)
    assert await store.stream.read(TENANT, thread_id, after=0, limit=10) == []
    assert await store.timers() == []


@contract
async def test_a_cancelled_delayed_run_leaves_no_timer(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id, after_seconds=3600, kwargs={"stream_mode": []})
    await store.runs.cancel(TENANT, thread_id, run.run_id)
    assert await store.timers() == []


async def test_a_stateless_runs_thread_that_is_used_again_stays(
    store: RunStore,
) -> None:
    thread_id, temporary = uuid4(), {"temporary": True, "stream_mode": []}
    await store.accept(thread_id, create_thread=True, temporary=True, kwargs=temporary)
    fence, _ = await store.begin()
    await store.finish(fence)
    later = await store.accept(thread_id)
    await store.carry_out_due()
    assert (await store.runs.get(TENANT, later.run_id)).thread_id == thread_id
    assert not (await store.threads.get(TENANT, thread_id)).temporary
    assert await store.timers() == []


async def test_a_thread_in_use_is_erased_later(store: RunStore) -> None:
    thread_id, temporary = uuid4(), {"temporary": True, "stream_mode": []}
    await store.accept(thread_id, create_thread=True, temporary=True, kwargs=temporary)
    fence, _ = await store.begin()
    await store.finish(fence)
    update = await store.threads.begin_update(
        TENANT, thread_id, worker_id=uuid4(), lease_seconds=60, graph_id=GRAPH
    )
    await store.carry_out_due()
    assert await store.timers() == [("drop_thread", str(thread_id))]
    await store.threads.end_update(update, status=None)
    await store.carry_out_due()
    with pytest.raises(NotFound):
        await store.threads.get(TENANT, thread_id)


async def test_who_is_late_drops_nothing_that_was_set_anew(store: RunStore) -> None:
    """Another process has carried the timer out, and the key was used again since."""
    thread_id = await store.thread()
    await store.accept(thread_id, idempotency_key="k")
    await store.make_timers_due()
    taken_by_slow = await store.dispatcher.due(hold_seconds=60, limit=10)
    assert await store.carry_out_due() == ["drop_key"]
    first = await store.accept(thread_id, idempotency_key="k")
    timers = await store.timers()
    await store.dispatcher.carry_out(taken_by_slow)
    assert await store.timers() == timers
    assert await store.accept(thread_id, idempotency_key="k") == first
    assert await store.carry_out_due() == ["drop_key"]
    assert (await store.accept(thread_id, idempotency_key="k")).run_id != first.run_id
