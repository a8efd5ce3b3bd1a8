"""Dead letters: made with a run's end, and put back only where nothing counts twice."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.stores.run_store import GRAPH, TENANT, RunStore, put, until_somebody_waits
from threadmill.checkpoints.base import Commit, Writes
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.domain.fence import Fence
from threadmill.domain.run import RunEvent, RunStatus, ThreadStatus
from threadmill.engine.attempt import fence_of
from threadmill.errors import Conflict, NotFound, Overloaded, ThreadBusy
from threadmill.stores.operations import DeadLetter, DeadLetterFilter, Redriven
from threadmill.stores.records import NewDeadLetter
from threadmill.streams.base import NewEvent

CAUSE = {"error": "RuntimeError", "message": "gave up"}
ALL = DeadLetterFilter()
STATELESS: dict[str, Any] = {
    "temporary": True,
    "create_thread": True,
    "kwargs": {"temporary": True, "stream_mode": []},
}


async def die(store: RunStore, fence: Fence, *, attempts: int = 5) -> UUID:
    dead = NewDeadLetter(cause=CAUSE, attempts=attempts, node="work")
    last = NewEvent("error", "{}")
    await store.finish(fence, RunEvent.FAIL, error=CAUSE, events=[last], dead=dead)
    assert fence.run_id is not None
    return fence.run_id


async def dead_run(store: RunStore, thread_id: UUID, **changes: Any) -> UUID:
    """A run that was given up before it had got anywhere."""
    await store.accept(thread_id, **changes)
    fence, _ = await store.begin()
    return await die(store, fence)


async def stopped_run(store: RunStore, thread_id: UUID) -> tuple[UUID, str]:
    """A run that was given up after its first checkpoint."""
    await store.accept(thread_id)
    fence, _ = await store.begin()
    checkpoint_id = await put(store, fence, -1, None)
    return await die(store, fence), checkpoint_id


async def redrive(store: RunStore, run_id: UUID, *, queue_max: int = 9) -> Redriven:
    return await store.dead_letters.redrive(TENANT, run_id, queue_max=queue_max)


async def letters(store: RunStore, **only: Any) -> list[DeadLetter]:
    found = await store.dead_letters.list(TENANT, DeadLetterFilter(**only), limit=10)
    assert await store.dead_letters.count(TENANT, DeadLetterFilter(**only)) == len(
        found
    )
    return list(found)


async def go_on(store: RunStore, thread_id: UUID, parent: str) -> None:
    """Another run moves the thread's head."""
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await put(store, fence, 0, parent)
    await store.finish(fence)


async def test_a_dead_letter_tells_what_happened(store: RunStore) -> None:
    thread_id = await store.thread()
    run_id, checkpoint_id = await stopped_run(store, thread_id)
    (letter,) = await letters(store)
    assert letter == await store.dead_letters.get(TENANT, run_id)
    assert (letter.run_id, letter.thread_id, letter.graph_id) == (
        run_id,
        thread_id,
        GRAPH,
    )
    assert (letter.node, letter.cause, letter.attempts) == ("work", CAUSE, 5)
    assert letter.checkpoint_id == checkpoint_id
    assert (await store.runs.get(TENANT, run_id)).status is RunStatus.ERROR


async def test_the_checkpoint_of_another_run_is_not_the_dead_ones(
    store: RunStore,
) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await put(store, fence, -1, None)
    await store.finish(fence)
    run_id = await dead_run(store, thread_id)
    assert (await store.dead_letters.get(TENANT, run_id)).checkpoint_id is None


async def test_they_are_listed_newest_first_and_by_graph_and_thread(
    store: RunStore,
) -> None:
    first, second = await store.thread(), await store.thread()
    one, two = await dead_run(store, first), await dead_run(store, second)
    assert [letter.run_id for letter in await letters(store)] == [two, one]
    assert [found.run_id for found in await letters(store, thread_id=first)] == [one]
    assert await letters(store, graph_id="another") == []
    page = await store.dead_letters.list(TENANT, ALL, limit=1, offset=1)
    assert [letter.run_id for letter in page] == [one]
    assert await store.dead_letters.count("somebody", ALL) == 0
    with pytest.raises(NotFound):
        await store.dead_letters.get("somebody", one)


async def test_whoever_deletes_the_run_or_the_thread_deletes_it(
    store: RunStore,
) -> None:
    first, second = await store.thread(), await store.thread()
    run_id = await dead_run(store, first)
    await dead_run(store, second)
    await store.runs.delete(TENANT, first, run_id)
    assert len(await letters(store)) == 1
    await store.threads.delete(TENANT, second)
    assert await letters(store) == []


async def test_discarding_leaves_the_run_as_it_ended(store: RunStore) -> None:
    run_id = await dead_run(store, await store.thread())
    await store.dead_letters.discard(TENANT, run_id)
    assert (await store.runs.get(TENANT, run_id)).status is RunStatus.ERROR
    with pytest.raises(NotFound):
        await store.dead_letters.discard(TENANT, run_id)
    with pytest.raises(NotFound):
        await redrive(store, run_id)


async def test_a_redriven_run_begins_anew_on_a_free_thread(store: RunStore) -> None:
    thread_id = await store.thread()
    run_id = await dead_run(store, thread_id)
    following = await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence)
    redriven = await redrive(store, run_id)
    assert redriven.starts
    assert redriven.run.seq == following.seq + 1
    assert redriven.run.status is RunStatus.PENDING
    left = (redriven.run.error, redriven.run.end_checkpoint)
    assert left == (None, None)
    assert (redriven.run.started_at, redriven.run.finished_at) == (None, None)
    assert await letters(store) == []
    assert await store.holder(thread_id) == run_id
    assert (await store.threads.get(TENANT, thread_id)).status is ThreadStatus.BUSY
    (claim,) = await store.claim()
    assert (claim.run_id, claim.attempt) == (run_id, 1)
    assert (await store.dispatcher.begin(claim)).attempt == 2
    with pytest.raises(NotFound):
        await redrive(store, run_id)


async def test_a_redriven_run_waits_behind_those_that_are_there(
    store: RunStore,
) -> None:
    thread_id = await store.thread()
    run_id = await dead_run(store, thread_id)
    await store.accept(thread_id)
    queued = await store.accept(thread_id)
    fence, _ = await store.begin()
    assert not (await redrive(store, run_id)).starts
    assert len(await store.activations(thread_id)) == 1
    goes_on = await store.finish(fence)
    assert goes_on is not None
    assert goes_on.run_id == queued.run_id
    fence, _ = await store.begin()
    goes_on = await store.finish(fence)
    assert goes_on is not None
    assert goes_on.run_id == run_id


async def test_a_full_queue_takes_no_redriven_run(store: RunStore) -> None:
    thread_id = await store.thread()
    run_id = await dead_run(store, thread_id)
    for _ in range(2):
        await store.accept(thread_id)
    with pytest.raises(Overloaded):
        await redrive(store, run_id, queue_max=2)
    assert len(await letters(store)) == 1


async def test_a_run_that_got_somewhere_goes_on_from_there(store: RunStore) -> None:
    thread_id = await store.thread()
    run_id, checkpoint_id = await stopped_run(store, thread_id)
    assert (await redrive(store, run_id)).starts
    _, run = await store.begin()
    assert (run.run_id, run.start_checkpoint) == (run_id, checkpoint_id)


async def test_a_run_that_got_somewhere_is_refused_once_the_thread_has_gone_on(
    store: RunStore,
) -> None:
    """Its input is part of the state already: given again it would count twice."""
    thread_id = await store.thread()
    run_id, checkpoint_id = await stopped_run(store, thread_id)
    await go_on(store, thread_id, checkpoint_id)
    with pytest.raises(Conflict, match=f"checkpoint {checkpoint_id}.*message again"):
        await redrive(store, run_id)
    assert [letter.run_id for letter in await letters(store)] == [run_id]
    assert (await store.runs.get(TENANT, run_id)).status is RunStatus.ERROR
    assert await store.holder(thread_id) is None


async def test_a_run_that_got_somewhere_lets_nobody_go_first(store: RunStore) -> None:
    thread_id = await store.thread()
    run_id, _ = await stopped_run(store, thread_id)
    await store.accept(thread_id)
    with pytest.raises(ThreadBusy):
        await redrive(store, run_id)
    assert len(await letters(store)) == 1


async def test_results_without_a_checkpoint_count_as_having_got_somewhere(
    store: RunStore,
) -> None:
    """An answer to an interrupt lies at the checkpoint of the run that asked."""
    thread_id = await store.thread()
    await store.accept(thread_id)
    fence, _ = await store.begin()
    asked = await put(store, fence, 0, None)
    await store.finish(fence, RunEvent.PAUSE)
    await store.accept(thread_id)
    fence, _ = await store.begin()
    answer = Writes("", asked, str(uuid4()), "", (("__resume__", ["yes"]),))
    await PostgresCheckpoints(store.database).commit(
        TENANT, str(thread_id), Commit(writes=(answer,)), fence
    )
    run_id = await die(store, fence)
    assert (await store.dead_letters.get(TENANT, run_id)).checkpoint_id is None
    await go_on(store, thread_id, asked)
    with pytest.raises(Conflict, match="gone on"):
        await redrive(store, run_id)


async def test_events_of_a_redriven_run_stay(store: RunStore) -> None:
    """What would have deleted them was about the end that is no more."""
    thread_id = await store.thread()
    run_id = await dead_run(store, thread_id)
    taken = await store.dispatcher.due(hold_seconds=60, limit=10)
    assert taken == []
    await redrive(store, run_id)
    assert await store.timers() == []
    fence, _ = await store.begin()
    await die(store, fence)
    assert await store.timers() == [("drop_events", str(run_id))]


async def test_a_stateless_runs_thread_stays_as_long_as_its_dead_letter(
    store: RunStore,
) -> None:
    thread_id = uuid4()
    run_id = await dead_run(store, thread_id, **STATELESS)
    assert await store.carry_out_due() == ["drop_events"]
    await store.threads.get(TENANT, thread_id)
    await redrive(store, run_id)
    fence, _ = await store.begin()
    await die(store, fence)
    await store.dead_letters.discard(TENANT, run_id)
    assert "drop_thread" in await store.carry_out_due()
    with pytest.raises(NotFound):
        await store.threads.get(TENANT, thread_id)


async def test_a_stateless_runs_thread_goes_when_its_dead_run_is_deleted(
    store: RunStore,
) -> None:
    thread_id = uuid4()
    run_id = await dead_run(store, thread_id, **STATELESS)
    await store.runs.delete(TENANT, thread_id, run_id)
    assert await store.carry_out_due() == ["drop_thread"]
    with pytest.raises(NotFound):
        await store.threads.get(TENANT, thread_id)


async def test_of_several_that_redrive_at_once_one_does_it(store: RunStore) -> None:
    thread_id = await store.thread()
    run_id = await dead_run(store, thread_id)
    outcomes = await asyncio.gather(
        *(redrive(store, run_id) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Redriven) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, NotFound) for outcome in outcomes) == 3
    assert len(await store.activations(thread_id)) == 1


async def test_what_is_just_being_discarded_is_not_redriven(
    store: RunStore, database_uri: str
) -> None:
    run_id = await dead_run(store, await store.thread())
    async with await psycopg.AsyncConnection.connect(database_uri) as discarding:
        await discarding.execute("DELETE FROM threadmill.dead_letter")
        late = asyncio.create_task(redrive(store, run_id))
        await until_somebody_waits(database_uri)
        await discarding.commit()
    with pytest.raises(NotFound):
        await late
    assert (await store.runs.get(TENANT, run_id)).status is RunStatus.ERROR


async def test_a_redriven_run_needs_the_labels_that_it_needed(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id, labels=["gpu"])
    worker: dict[str, Any] = {"n": 1, "lease_seconds": 60, "labels": ["gpu"]}
    (claim,) = await store.dispatcher.claim(uuid4(), [GRAPH], **worker)
    await store.dispatcher.begin(claim)
    await die(store, fence_of(claim))
    await redrive(store, run.run_id)
    assert await store.claim() == []
    (claim,) = await store.dispatcher.claim(uuid4(), [GRAPH], **worker)
    assert claim.run_id == run.run_id
