"""Pruning threads at rest, while something begins on them at that very moment."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.keeping import LONG, Keeping
from tests.stores.run_store import TENANT
from threadmill.checkpoints.base import Commit
from threadmill.domain.retention import Strategy
from threadmill.domain.run import RunEvent
from threadmill.errors import Conflict, InvalidRequest, NotFound
from threadmill.stores.records import NewDeadLetter
from threadmill.stores.retention import Freed
from threadmill.testing.checkpoints import put, writes

DELETE, KEEP = Strategy.DELETE, Strategy.KEEP_LATEST


# ------------------------------------------------------------------ what is left


async def test_keep_latest_leaves_the_head_its_writes_and_its_chunks(
    keeping: Keeping,
) -> None:
    thread_id = await keeping.thread(5)
    foreseen = await keeping.pruning.weigh(TENANT, thread_id, KEEP)
    freed = await keeping.pruning.prune(TENANT, thread_id, KEEP)
    assert freed is not None
    assert (freed.threads, freed.checkpoints) == (1, 4)
    assert freed.bytes > 4 * 20
    assert freed == foreseen
    assert await keeping.left(thread_id) == ["c4"]
    found = await keeping.store.checkpoints.get(TENANT, str(thread_id), "")
    assert found is not None
    assert found.checkpoint["channel_values"] == {"text": f"4{LONG}"}
    assert list(found.writes) == [("t1", "a", 4)]
    again = await keeping.pruning.prune(TENANT, thread_id, KEEP)
    assert again == Freed(1, 0, 0)


async def test_delete_leaves_nothing_and_says_what_it_was(keeping: Keeping) -> None:
    thread_id = await keeping.thread(3)
    foreseen = await keeping.pruning.weigh(TENANT, thread_id, DELETE)
    freed = await keeping.pruning.prune(TENANT, thread_id, DELETE)
    assert freed == foreseen
    assert freed is not None
    assert (freed.threads, freed.checkpoints) == (1, 3)
    assert not await keeping.exists(thread_id)
    assert await keeping.left(thread_id) == []
    assert await keeping.pruning.prune(TENANT, thread_id, DELETE) is None
    assert await keeping.pruning.weigh(TENANT, thread_id, DELETE) is None


async def test_a_long_history_goes_in_several_transactions(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadmill.checkpoints.upkeep.PRUNE_MAX", 2)
    monkeypatch.setattr("threadmill.checkpoints.pruning.PRUNE_MAX", 2)
    thread_id = await keeping.thread(6)
    freed = await keeping.pruning.prune(TENANT, thread_id, KEEP)
    assert freed is not None
    assert (freed.threads, freed.checkpoints) == (1, 5)
    assert await keeping.left(thread_id) == ["c5"]


async def test_another_tenants_thread_is_not_there(keeping: Keeping) -> None:
    thread_id = await keeping.thread(2)
    assert await keeping.pruning.prune("somebody", thread_id, DELETE) is None
    assert await keeping.pruning.weigh("somebody", thread_id, DELETE) is None
    assert len(await keeping.left(thread_id)) == 2


@pytest.mark.parametrize(
    ("event", "left"),
    [
        (RunEvent.SUCCEED, {"", "agent"}),
        (RunEvent.PAUSE, {"", "agent", "part:t1", "part:t1|deep:t2"}),
        (RunEvent.FAIL, {"", "agent", "part:t1", "part:t1|deep:t2"}),
    ],
)
async def test_what_single_calls_of_subgraphs_had_goes_once_nothing_goes_on(
    keeping: Keeping, event: RunEvent, left: set[str]
) -> None:
    thread_id = await keeping.thread(2)
    for ns in ("agent", "part:t1", "part:t1|deep:t2"):
        for n in range(2):
            commit = Commit(puts=(put(f"s{n}", ns=ns, text=f"{ns}{n}{LONG}"),))
            await keeping.store.checkpoints.commit(TENANT, str(thread_id), commit)
    await keeping.store.accept(thread_id)
    fence, _ = await keeping.store.begin()
    error = {"message": "no"} if event is RunEvent.FAIL else None
    await keeping.store.finish(fence, event, error=error)
    foreseen = await keeping.pruning.weigh(TENANT, thread_id, KEEP)
    freed = await keeping.pruning.prune(TENANT, thread_id, KEEP)
    assert freed == foreseen
    assert freed is not None
    assert freed.checkpoints == 2 + 6 - len(left)
    for table in ("head", "checkpoint"):
        assert await keeping.namespaces(table, thread_id) == left


# ------------------------------------------------------------ what is left alone


@pytest.mark.parametrize("strategy", [DELETE, KEEP])
@pytest.mark.parametrize("state", ["pending", "running", "delayed", "updated"])
async def test_a_thread_with_something_open_is_left_alone(
    keeping: Keeping, strategy: Strategy, state: str
) -> None:
    thread_id = await keeping.thread(3)
    if state == "updated":
        await keeping.store.threads.begin_update(
            TENANT, thread_id, worker_id=uuid4(), lease_seconds=60, graph_id="graph"
        )
    else:
        delay = 1000.0 if state == "delayed" else 0.0
        await keeping.store.accept(thread_id, after_seconds=delay)
    if state == "running":
        await keeping.store.begin()
    assert await keeping.pruning.weigh(TENANT, thread_id, strategy) is None
    assert await keeping.pruning.prune(TENANT, thread_id, strategy) is None
    assert len(await keeping.left(thread_id)) == 3


@pytest.mark.parametrize("strategy", [DELETE, KEEP])
async def test_the_thread_of_a_stateless_run_is_left_alone(
    keeping: Keeping, strategy: Strategy
) -> None:
    thread_id = await keeping.thread(3)
    await keeping.sql("UPDATE threadmill.thread SET temporary = true")
    assert await keeping.pruning.weigh(TENANT, thread_id, strategy) is None
    assert await keeping.pruning.prune(TENANT, thread_id, strategy) is None
    assert len(await keeping.left(thread_id)) == 3


async def test_a_thread_that_has_changed_since_it_was_looked_at_is_left_alone(
    keeping: Keeping,
) -> None:
    thread_id = await keeping.thread(3)
    seen = (await keeping.store.threads.get(TENANT, thread_id)).updated_at
    await keeping.store.threads.patch(TENANT, thread_id, metadata={"a": 1})
    for strategy in (DELETE, KEEP):
        done = await keeping.pruning.prune(TENANT, thread_id, strategy, as_of=seen)
        assert done is None
    assert len(await keeping.left(thread_id)) == 3


async def test_nobody_waits_for_a_thread_that_somebody_has_locked(
    keeping: Keeping,
) -> None:
    thread_id = await keeping.thread(3)
    async with await psycopg.AsyncConnection.connect(keeping.uri) as connection:
        await connection.execute("SELECT FROM threadmill.thread FOR UPDATE")
        for strategy in (DELETE, KEEP):
            assert await keeping.pruning.prune(TENANT, thread_id, strategy) is None


# ------------------------------------------------- at the same moment, both ways


async def test_a_run_that_forks_while_its_checkpoint_goes_is_refused_or_spares_it(
    keeping: Keeping,
) -> None:
    """Accepting and pruning at once: never a run whose checkpoint is gone."""
    outcomes = set()
    for _ in range(30):
        thread_id = await keeping.thread(3)
        accepted, freed = await asyncio.gather(
            keeping.store.accept(thread_id, from_checkpoint="c0"),
            keeping.pruning.prune(TENANT, thread_id, KEEP),
            return_exceptions=True,
        )
        left = await keeping.left(thread_id)
        if isinstance(accepted, BaseException):
            assert isinstance(accepted, InvalidRequest)
            assert (left, isinstance(freed, Freed)) == (["c2"], True)
        else:
            assert (left, freed) == (["c2", "c1", "c0"], None)
        outcomes.add(type(accepted).__name__)
    assert outcomes == {"InvalidRequest", "Run"} or len(outcomes) == 1


async def test_a_run_is_accepted_while_its_thread_is_being_pruned(
    keeping: Keeping,
) -> None:
    """It waits for the lock, then begins at the head, which is where it was."""
    thread_id = await keeping.thread(3)
    async with await psycopg.AsyncConnection.connect(keeping.uri) as other:
        # A pruning that has locked the thread and the chunks, and stands still.
        await other.execute(
            "SELECT FROM threadmill.thread WHERE thread_id = %s FOR UPDATE",
            (thread_id,),
        )
        await other.execute(
            "DELETE FROM threadmill.checkpoint WHERE checkpoint_id <> 'c2'"
        )
        plain = asyncio.create_task(keeping.store.accept(thread_id))
        forked = asyncio.create_task(
            keeping.store.accept(thread_id, from_checkpoint="c0")
        )
        await _until_waiting(keeping.uri, 2)
        await other.commit()
    assert (await plain).status.value == "pending"
    with pytest.raises(InvalidRequest, match="no checkpoint c0"):
        await forked
    assert await keeping.left(thread_id) == ["c2"]


async def test_a_run_is_not_accepted_on_a_thread_that_is_being_deleted(
    keeping: Keeping,
) -> None:
    for _ in range(10):
        thread_id = await keeping.thread(2)
        accepted, freed = await asyncio.gather(
            keeping.store.accept(thread_id),
            keeping.pruning.prune(TENANT, thread_id, DELETE),
            return_exceptions=True,
        )
        if isinstance(accepted, BaseException):
            assert isinstance(accepted, NotFound)
            assert isinstance(freed, Freed)
        else:
            assert freed is None
            assert await keeping.store.holder(thread_id) == accepted.run_id


async def test_pruning_while_a_run_begins_and_goes_on_loses_nothing(
    keeping: Keeping,
) -> None:
    """The run commits on what was its head, whenever the pruning comes."""
    thread_id = await keeping.thread(4)
    done = asyncio.Event()

    async def run(n: int) -> None:
        await keeping.store.accept(thread_id)
        fence, _ = await keeping.store.begin()
        head = await keeping.store.checkpoints.get(TENANT, str(thread_id), "")
        assert head is not None
        name, before = f"r{n}", head.checkpoint["id"]
        new = put(name, before, expected=before, text=f"{n}{LONG}")
        await keeping.store.checkpoints.commit(
            TENANT, str(thread_id), Commit(puts=(new,)), fence
        )
        await keeping.store.finish(fence)

    async def work() -> None:
        try:
            for n in range(20):
                await run(n)
        finally:
            done.set()

    async def prune() -> int:
        pruned = 0
        while not done.is_set():
            freed = await keeping.pruning.prune(TENANT, thread_id, KEEP)
            pruned += freed is not None
        return pruned

    await asyncio.gather(work(), prune())
    await keeping.pruning.prune(TENANT, thread_id, KEEP)
    assert await keeping.left(thread_id) == ["r19"]


async def test_a_dead_letter_whose_checkpoint_was_pruned_is_not_put_back(
    keeping: Keeping,
) -> None:
    thread_id = await keeping.thread(3)
    fork = {"stream_mode": [], "checkpoint": {"checkpoint_id": "c0"}}
    run = await keeping.store.accept(thread_id, kwargs=fork, from_checkpoint="c0")
    fence, _ = await keeping.store.begin()
    dead = NewDeadLetter(cause={"error": "x", "message": "y"}, attempts=5)
    await keeping.store.finish(fence, RunEvent.FAIL, error=dead.cause, dead=dead)
    await keeping.pruning.prune(TENANT, thread_id, KEEP)
    with pytest.raises(Conflict, match="was pruned"):
        await keeping.store.dead_letters.redrive(TENANT, run.run_id, queue_max=9)


async def test_a_question_stays_when_its_thread_is_named(keeping: Keeping) -> None:
    """Who names a thread means it; what it waits for is part of its present state."""
    thread_id = await keeping.thread(2)
    asked = writes("c1", "t2", ("__interrupt__", "really?"))
    commit = Commit(writes=(asked,))
    await keeping.store.checkpoints.commit(TENANT, str(thread_id), commit)
    await keeping.store.accept(thread_id)
    fence, _ = await keeping.store.begin()
    await keeping.store.finish(fence, RunEvent.PAUSE)
    assert await keeping.pruning.prune(TENANT, thread_id, KEEP) is not None
    found = await keeping.store.checkpoints.get(TENANT, str(thread_id), "")
    assert found is not None
    assert ("t2", "__interrupt__", "really?") in found.writes
    thread = await keeping.store.threads.get(TENANT, thread_id)
    assert thread.status.value == "interrupted"


async def _until_waiting(uri: str, n: int) -> None:
    """Until so many sessions of this database wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock'"
    )
    async with (
        asyncio.timeout(30),
        await psycopg.AsyncConnection.connect(uri, autocommit=True) as connection,
    ):
        while True:
            found = await (await connection.execute(waiting.encode())).fetchone()
            if found is not None and found[0] >= n:
                return
            await asyncio.sleep(0.01)
