"""Pruning threads at rest, while something begins on them at that very moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from tests.stores.run_store import TENANT, RunStore
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.pruning import PostgresPruning
from threadmill.domain.retention import RetentionRules, Strategy, Ttl, TtlDefaults
from threadmill.domain.run import RunEvent
from threadmill.drivers.postgres.database import Database
from threadmill.engine.prune import Prune, PruneOrder
from threadmill.engine.retain import Retain, RetainLimits
from threadmill.errors import Conflict, InvalidRequest, NotFound
from threadmill.stores.postgres.retention import PostgresRetention
from threadmill.stores.records import NewDeadLetter
from threadmill.stores.retention import Freed
from threadmill.testing.checkpoints import put, writes

DELETE, KEEP = Strategy.DELETE, Strategy.KEEP_LATEST
LONG = "x" * 2000


@dataclass
class Keeping:
    """Threads with a history, and what prunes them."""

    store: RunStore
    pruning: PostgresPruning
    rules: PostgresRetention
    uri: str

    async def thread(self, n: int = 5, **idle: float) -> UUID:
        """One with `n` checkpoints, each with a write and a chunk of its own."""
        thread_id = await self.store.thread()
        for i in range(n):
            commit = Commit(
                puts=(put(f"c{i}", f"c{i - 1}" if i else None, text=f"{i}{LONG}"),),
                writes=(writes(f"c{i}", "t1", ("a", i)),),
            )
            await self.store.checkpoints.commit(TENANT, str(thread_id), commit)
        if idle:
            await self.age(thread_id, **idle)
        return thread_id

    async def age(self, thread_id: UUID, **idle: float) -> None:
        await self.sql(
            "UPDATE threadmill.thread SET updated_at = now() - %s WHERE thread_id = %s",
            timedelta(**idle),
            thread_id,
        )

    async def sql(self, statement: str, *params: Any) -> None:
        async with await psycopg.AsyncConnection.connect(
            self.uri, autocommit=True
        ) as connection:
            await connection.execute(statement.encode(), params)

    async def left(self, thread_id: UUID) -> Sequence[str]:
        """The ids of the checkpoints that are there, newest first."""
        found = self.store.checkpoints.list(TENANT, str(thread_id))
        return [stored.checkpoint["id"] async for stored in found]

    async def exists(self, thread_id: UUID) -> bool:
        try:
            await self.store.threads.get(TENANT, thread_id)
        except NotFound:
            return False
        return True

    def retain(self, default: Ttl | None = None, **options: Any) -> Retain:
        rules = RetentionRules(
            defaults=TtlDefaults(ttl=default, **options.pop("defaults", {})),
            graphs=options.pop("graphs", {"graph": None}),
        )
        return Retain(store=self.rules, pruning=self.pruning, rules=rules, **options)


@pytest_asyncio.fixture
async def keeping(database: Database, database_uri: str) -> AsyncIterator[Keeping]:
    store = RunStore(database)
    yield Keeping(
        store,
        PostgresPruning(store.checkpoints),
        PostgresRetention(database),
        database_uri,
    )


async def look(retain: Retain) -> None:
    """Until the rounds that are due are over."""
    while await retain.look() is not None:
        pass


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


# ------------------------------------------------------------------- by the rules


async def test_the_sweep_deletes_what_is_over_and_nothing_else(
    keeping: Keeping,
) -> None:
    old = await keeping.thread(2, minutes=11)
    young = await keeping.thread(2, minutes=9)
    busy = await keeping.thread(2)
    await keeping.store.accept(busy)
    await keeping.age(busy, minutes=11)
    retain = keeping.retain(Ttl(10))
    await look(retain)
    assert (retain.freed.threads, retain.freed.checkpoints) == (1, 2)
    assert not await keeping.exists(old)
    assert await keeping.exists(young)
    assert len(await keeping.left(busy)) == 2


async def test_a_thread_that_waits_for_a_human_goes_by_delete_only(
    keeping: Keeping,
) -> None:
    thread_id = await keeping.thread(2)
    await keeping.store.accept(thread_id)
    fence, _ = await keeping.store.begin()
    await keeping.store.finish(fence, RunEvent.PAUSE)
    await keeping.age(thread_id, minutes=11)
    await look(keeping.retain(Ttl(10, KEEP)))
    assert len(await keeping.left(thread_id)) == 2
    await look(keeping.retain(Ttl(10)))
    assert not await keeping.exists(thread_id)


async def test_pruning_is_no_change_and_is_done_once(keeping: Keeping) -> None:
    thread_id = await keeping.thread(3, minutes=11)
    before = await keeping.store.threads.get(TENANT, thread_id)
    await look(keeping.retain(Ttl(10, KEEP)))
    assert await keeping.left(thread_id) == ["c2"]
    assert await keeping.store.threads.get(TENANT, thread_id) == before
    (idle,) = await keeping.rules.idle(TENANT, minutes=10, limit=10)
    assert idle.pruned
    # With its next change there may be something to prune again.
    await keeping.store.threads.patch(TENANT, thread_id, metadata={})
    (idle,) = await keeping.rules.idle(TENANT, minutes=0, limit=10)
    assert not idle.pruned


async def test_a_threads_own_rule_and_its_tenants(keeping: Keeping) -> None:
    plain = await keeping.thread(1, minutes=11)
    own = (
        await keeping.store.threads.create(
            TENANT, uuid4(), metadata={}, if_exists="raise", ttl=Ttl(60)
        )
    ).thread_id
    await keeping.age(own, minutes=11)
    await look(keeping.retain())
    assert await keeping.exists(plain)
    await keeping.rules.set_rule(TENANT, Ttl(10))
    assert await keeping.rules.rule(TENANT) == Ttl(10)
    assert await keeping.rules.rule("somebody") is None
    await keeping.sql("DELETE FROM threadmill.retention_round")
    await look(keeping.retain())
    assert not await keeping.exists(plain)
    assert await keeping.exists(own)
    await keeping.age(own, minutes=61)
    await keeping.rules.set_rule(TENANT, None)
    await keeping.sql("DELETE FROM threadmill.retention_round")
    await look(keeping.retain())
    assert not await keeping.exists(own)


async def test_a_round_is_one_processs_and_comes_again(keeping: Keeping) -> None:
    await keeping.thread(1)
    take = keeping.rules.take_rounds
    assert await take("a", hold_seconds=60, limit=10) == [TENANT]
    assert await take("a", hold_seconds=60, limit=10) == []
    assert await take("b", hold_seconds=60, limit=10) == [TENANT]
    await keeping.rules.end_round(TENANT, "a", again_seconds=0)
    assert await take("a", hold_seconds=60, limit=10) == [TENANT]


async def test_a_walk_in_small_pages_sees_every_thread_once(keeping: Keeping) -> None:
    threads = [await keeping.thread(1, minutes=11) for _ in range(5)]
    # Two of one instant, as a transaction of several statements makes them.
    await keeping.sql("UPDATE threadmill.thread SET updated_at = now() - interval '1h'")
    kept = await keeping.thread(1, minutes=5)
    retain = keeping.retain(Ttl(10), limits=RetainLimits(page=2))
    await look(retain)
    assert [await keeping.exists(t) for t in threads] == [False] * 5
    assert await keeping.exists(kept)


async def test_a_look_that_has_no_time_left_goes_on_with_the_next(
    keeping: Keeping,
) -> None:
    for _ in range(3):
        await keeping.thread(1, minutes=11)
    ticks = iter(range(1000))
    retain = keeping.retain(
        Ttl(10), limits=RetainLimits(look_seconds=3), clock=lambda: float(next(ticks))
    )
    assert await retain.look() == 0.0
    left = await keeping.rules.idle(TENANT, minutes=10, limit=10)
    assert 0 < len(left) < 3
    await look(retain)
    assert await keeping.rules.idle(TENANT, minutes=10, limit=10) == []


async def test_no_more_than_the_limit_goes_in_one_round(keeping: Keeping) -> None:
    for _ in range(4):
        await keeping.thread(1, minutes=11)
    retain = keeping.retain(Ttl(10), defaults={"round_max": 3})
    await look(retain)
    assert len(await keeping.rules.idle(TENANT, minutes=10, limit=10)) == 1


# --------------------------------------------------------------------- on demand


async def test_a_dry_run_says_what_the_real_one_then_frees(keeping: Keeping) -> None:
    old = [await keeping.thread(3, minutes=11) for _ in range(2)]
    young = await keeping.thread(3)
    prune = Prune(keeping.rules, keeping.pruning)
    for strategy in (KEEP, DELETE):
        order = PruneOrder(strategy=strategy, idle_minutes=10, dry_run=True)
        (foreseen,) = [freed async for freed in prune(TENANT, order)]
        left = 3 if strategy is KEEP else 1
        assert len(await keeping.left(old[0])) == left
        order = PruneOrder(strategy=strategy, idle_minutes=10)
        (freed,) = [freed async for freed in prune(TENANT, order)]
        assert freed == foreseen
        assert freed.threads == 2
        assert freed.bytes > 0
    assert [await keeping.exists(thread_id) for thread_id in old] == [False, False]
    assert len(await keeping.left(young)) == 3


async def test_only_threads_of_one_graph(keeping: Keeping) -> None:
    mine, other = [await keeping.thread(2) for _ in range(2)]
    await keeping.store.threads.patch(TENANT, mine, metadata={"graph_id": "graph"})
    prune = Prune(keeping.rules, keeping.pruning)
    order = PruneOrder(strategy=DELETE, graph_id="graph")
    assert [freed.threads async for freed in prune(TENANT, order)] == [1]
    assert [await keeping.exists(t) for t in (mine, other)] == [False, True]


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
