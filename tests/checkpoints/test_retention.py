"""Threads go by the rules, or because somebody asks for it."""

from __future__ import annotations

from uuid import uuid4

from tests.fixtures.keeping import Keeping
from tests.stores.run_store import TENANT
from threadmill.domain.retention import Strategy, Ttl
from threadmill.domain.run import RunEvent
from threadmill.engine.prune import Prune, PruneOrder
from threadmill.engine.retain import Retain, RetainLimits

DELETE, KEEP = Strategy.DELETE, Strategy.KEEP_LATEST


async def look(retain: Retain) -> None:
    """Until the rounds that are due are over."""
    while await retain.look() is not None:
        pass


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


async def test_a_round_of_a_process_that_died_is_anothers_after_a_while(
    keeping: Keeping,
) -> None:
    """What it had pruned stays so; what it had not reached goes with the next look."""
    threads = [await keeping.thread(3, minutes=11) for _ in range(3)]
    ticks = iter(range(1000))
    dying = keeping.retain(
        Ttl(10, KEEP),
        limits=RetainLimits(look_seconds=3),
        clock=lambda: float(next(ticks)),
    )
    assert await dying.look() == 0.0
    halfway = [len(await keeping.left(thread_id)) for thread_id in threads]
    assert set(halfway) == {1, 3}
    another = keeping.retain(Ttl(10, KEEP))
    await look(another)
    assert [len(await keeping.left(thread_id)) for thread_id in threads] == halfway
    await keeping.sql(
        "UPDATE threadmill.retention_round SET due_at = due_at - interval '1 minute'"
    )
    await look(another)
    assert [len(await keeping.left(thread_id)) for thread_id in threads] == [1] * 3


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
