"""Threads in Redis end by themselves: whole, all keys of them, and not too early."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.fixtures.redis import RedisServer, until
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.redis.directory import Directory
from threadmill.checkpoints.redis.keys import (
    again_key,
    again_name,
    index_key,
    run_key,
    thread_keys,
)
from threadmill.checkpoints.redis.store import Keeping, RedisCheckpoints
from threadmill.checkpoints.redis.upkeep import RedisUpkeep
from threadmill.domain.fence import Fence
from threadmill.drivers.redis.database import RedisDatabase
from threadmill.testing.checkpoints import put, writes

TENANT = "default"


@pytest.fixture
async def database(redis_uri: str) -> AsyncIterator[RedisDatabase]:
    opened = RedisDatabase(redis_uri)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def looking(shared_redis: RedisServer) -> Any:
    """A look at the keys themselves."""
    with shared_redis.connection() as connection:
        yield connection


def _claim() -> Fence:
    return Fence(TENANT, uuid4(), uuid4(), 1, uuid4())


def _long(count: int) -> list[str]:
    return [f"{number} {'word ' * 20}" for number in range(count)]


async def _everywhere(store: RedisCheckpoints, fence: Fence) -> None:
    """A thread with something under every key."""
    await store.install(fence)
    commit = Commit(
        writes=(writes("c1", "t1", ("a", 1)),),
        puts=(put("c1", messages=_long(20)), put("s1", ns="sub")),
    )
    await store.commit(TENANT, str(fence.thread_id), commit, fence)


def _keys(looking: Any) -> set[str]:
    return {key.decode() for key in looking.scan_iter()}


async def test_every_key_has_a_time_to_live(
    database: RedisDatabase, looking: Any
) -> None:
    fence = _claim()
    thread, run = str(fence.thread_id), str(fence.run_id)
    store = RedisCheckpoints(database, keeping=Keeping(ttl_seconds=100))
    await _everywhere(store, fence)
    names = {*thread_keys(TENANT, thread), index_key(TENANT), run_key(TENANT, run)}
    assert _keys(looking) == names
    left = {key: looking.pttl(key) for key in names}
    assert all(milliseconds > 0 for milliseconds in left.values()), left
    # A thread goes at one moment; what leads to it stays longer.
    ends = {looking.pexpiretime(key) for key in thread_keys(TENANT, thread)}
    assert len(ends) == 1
    assert looking.pexpiretime(index_key(TENANT)) > ends.pop()


async def test_without_one_nothing_ends(database: RedisDatabase, looking: Any) -> None:
    await _everywhere(RedisCheckpoints(database), _claim())
    assert {looking.pttl(key) for key in looking.scan_iter()} == {-1}


async def test_a_put_makes_a_thread_live_on_whatever_it_touches(
    database: RedisDatabase, looking: Any
) -> None:
    fence = _claim()
    thread = str(fence.thread_id)
    await _everywhere(RedisCheckpoints(database, keeping=Keeping(100)), fence)
    before = looking.pexpiretime(thread_keys(TENANT, thread)[0])
    store = RedisCheckpoints(database, keeping=Keeping(1000))
    result = Commit(writes=(writes("c1", "t2", ("a", 1)),))
    await store.commit(TENANT, thread, result, fence)
    ends = {looking.pexpiretime(key) for key in thread_keys(TENANT, thread)}
    assert len(ends) == 1
    assert ends.pop() > before + 500_000


@pytest.mark.parametrize("refreshes", [False, True])
async def test_a_read_does_so_only_if_it_is_told_to(
    database: RedisDatabase, looking: Any, *, refreshes: bool
) -> None:
    fence = _claim()
    thread = str(fence.thread_id)
    await _everywhere(RedisCheckpoints(database, keeping=Keeping(100)), fence)
    reader = RedisCheckpoints(database, keeping=Keeping(1000, refreshes))
    before = looking.pexpiretime(thread_keys(TENANT, thread)[0])
    await reader.get(TENANT, thread, "")
    ends = {looking.pexpiretime(key) for key in thread_keys(TENANT, thread)}
    assert len(ends) == 1
    assert (ends.pop() > before) == refreshes


async def test_a_thread_that_has_ended_is_gone_from_every_list(
    database: RedisDatabase, looking: Any
) -> None:
    store = RedisCheckpoints(database, keeping=Keeping(0.001))
    kept = RedisCheckpoints(database)
    await kept.commit(TENANT, "stays", Commit(puts=(put("c1"),)))
    for number in range(3):
        await store.commit(TENANT, f"t{number}", Commit(puts=(put("c1"),)))
    await until(lambda: not any("{default:t" in key for key in _keys(looking)))
    assert [s.thread_id async for s in store.list(TENANT, None)] == ["stays"]
    assert await store.get(TENANT, "t1", "") is None
    # Those who announce take out what is gone; not what was announced a moment ago.
    looking.zadd(index_key(TENANT), {f"t{n}": 1 for n in range(3)} | {"stays": 2})
    await store.commit(TENANT, "another", Commit(puts=(put("c1"),)))
    left = {name.decode() for name in looking.zrange(index_key(TENANT), 0, -1)}
    assert left == {"stays", "another"}


async def test_what_upkeep_leaves_still_ends(
    database: RedisDatabase, looking: Any
) -> None:
    """Pruning rewrites what stays, copying writes a thread anew."""
    store = RedisCheckpoints(database, keeping=Keeping(100))
    run = str(uuid4())
    for number in range(3):
        parent = f"c{number - 1}" if number else None
        meta = {"run_id": run} if number == 2 else {}
        one = put(f"c{number}", parent, metadata=meta, messages=_long(20 + number))
        result = writes(f"c{number}", "t1", ("a", 1))
        await store.commit(TENANT, "t", Commit(puts=(one,), writes=(result,)))
    upkeep = RedisUpkeep(store)
    await upkeep.copy_thread(TENANT, "t", "copy")
    await upkeep.delete_for_runs(TENANT, [run])
    await upkeep.prune(TENANT, ["t"])
    assert [s.checkpoint["id"] async for s in store.list(TENANT, "t")] == ["c1"]
    left = {key: looking.pttl(key) for key in _keys(looking)}
    assert all(milliseconds > 0 for milliseconds in left.values()), left
    for thread in ("t", "copy"):
        ends = {looking.pexpiretime(key) for key in thread_keys(TENANT, thread)}
        assert len(ends - {-2}) == 1


async def test_what_leads_to_nothing_is_taken_out_also_without_a_time_to_live(
    database: RedisDatabase, looking: Any
) -> None:
    """A list, a deletion and a prune look after the indexes."""
    store = RedisCheckpoints(database)
    upkeep = RedisUpkeep(store)
    runs = [str(uuid4()) for _ in range(3)]
    threads = [f"t{n}" for n in range(3)]
    for thread, run in zip(threads, runs, strict=True):
        for name, meta in (("c1", {"run_id": run}), ("c2", {})):
            one = put(name, metadata=meta)
            await store.commit(TENANT, thread, Commit(puts=(one,)))
    # Announced long ago, as far as the indexes know.
    for key in [index_key(TENANT), *(run_key(TENANT, run) for run in runs)]:
        for name in looking.zrange(key, 0, -1):
            looking.zadd(key, {name: 1})
    await store.delete_thread(TENANT, "t0")
    await upkeep.prune(TENANT, ["t1"])
    assert not looking.exists(run_key(TENANT, runs[0]), run_key(TENANT, runs[1]))
    assert looking.exists(run_key(TENANT, runs[2]))
    looking.unlink(*thread_keys(TENANT, "t2"))
    found = [(s.thread_id, s.checkpoint["id"]) async for s in store.list(TENANT, None)]
    assert found == [("t1", "c2")]
    assert looking.zrange(index_key(TENANT), 0, -1) == [b"t1"]


def _let_a_minute_pass(looking: Any) -> None:
    """As far as the lists know."""
    for key in [*looking.scan_iter("*:threads"), *looking.scan_iter("*:again")]:
        for name in looking.zrange(key, 0, -1):
            looking.zadd(key, {name: 1})


@pytest.mark.parametrize("how", ["delete_thread", "delete_for_runs", "prune", "delete"])
async def test_what_goes_right_after_it_came_leaves_no_key_for_ever(
    database: RedisDatabase, looking: Any, how: str
) -> None:
    """It stays in the lists for a while; those who announce others take it out then."""
    store, run = RedisCheckpoints(database), str(uuid4())
    upkeep = RedisUpkeep(store)
    for name, meta in (("c1", {"run_id": run}), ("c2", {"run_id": str(uuid4())})):
        await store.commit(TENANT, "ä:% 1", Commit(puts=(put(name, metadata=meta),)))
    if how == "delete_thread":
        await store.delete_thread(TENANT, "ä:% 1")
    elif how == "delete_for_runs":
        await upkeep.delete_for_runs(TENANT, [run])
    else:
        strategy = "keep_latest" if how == "prune" else how
        await upkeep.prune(TENANT, ["ä:% 1"], strategy=strategy)
    assert looking.exists(run_key(TENANT, run), again_key(TENANT)) == 2
    _let_a_minute_pass(looking)
    await store.commit(TENANT, "another", Commit(puts=(put("c1"),)))
    assert not looking.exists(run_key(TENANT, run), again_key(TENANT))
    whole = how in ("delete_thread", "delete")
    assert looking.zcard(index_key(TENANT)) == (1 if whole else 2)


async def test_what_came_back_or_is_announced_anew_stays_in_the_lists(
    database: RedisDatabase, looking: Any
) -> None:
    here, there = RedisCheckpoints(database), RedisCheckpoints(database)
    back, about, run = "back", "about to", str(uuid4())
    one = Commit(puts=(put("c1", metadata={"run_id": run}),))
    for thread in (back, about):
        await here.commit(TENANT, thread, one)
        await there.delete_thread(TENANT, thread)
    await here.commit(TENANT, back, one)  # announces nothing
    _let_a_minute_pass(looking)
    now = looking.time()
    announced = {about: now[0] * 1_000_000 + now[1]}
    looking.zadd(run_key(TENANT, run), announced)
    await here.commit(TENANT, "another", Commit(puts=(put("c1"),)))
    assert set(looking.zrange(run_key(TENANT, run), 0, -1)) == {b"back", b"about to"}
    assert back.encode() in looking.zrange(index_key(TENANT), 0, -1)
    # It is looked at again, and no sooner than in a minute.
    ((name, at),) = looking.zrange(again_key(TENANT), 0, -1, withscores=True)
    assert name.decode() == again_name(run, about)
    assert at >= announced[about]
    await RedisUpkeep(there).delete_for_runs(TENANT, [run])
    assert [s.thread_id async for s in there.list(TENANT, None)] == ["another"]


async def test_a_run_that_only_wrote_goes_with_its_thread(
    database: RedisDatabase, looking: Any
) -> None:
    fence = _claim()
    thread, run = str(fence.thread_id), str(fence.run_id)
    store = RedisCheckpoints(database)
    await store.commit(TENANT, thread, Commit(puts=(put("c1"),)))
    await store.install(fence)
    result = Commit(writes=(writes("c1", "t1", ("a", 1)),))
    await store.commit(TENANT, thread, result, fence)
    _let_a_minute_pass(looking)
    await store.delete_thread(TENANT, thread)
    assert _keys(looking) == {thread_keys(TENANT, thread)[-1]}
    assert not looking.exists(run_key(TENANT, run))


async def test_what_was_announced_a_moment_ago_is_not_taken_out(
    database: RedisDatabase,
) -> None:
    """Another process may put to it without announcing it again."""
    here, there = RedisCheckpoints(database), RedisCheckpoints(database)
    run = str(uuid4())
    meta = {"run_id": run}
    await here.commit(TENANT, "t", Commit(puts=(put("c1", metadata=meta),)))
    await there.delete_thread(TENANT, "t")
    assert [s async for s in there.list(TENANT, None)] == []
    await here.commit(TENANT, "t", Commit(puts=(put("c2", metadata=meta),)))
    assert len([s async for s in there.list(TENANT, None)]) == 1
    await RedisUpkeep(there).delete_for_runs(TENANT, [run])
    assert [s async for s in there.list(TENANT, None)] == []


async def test_a_thread_at_work_is_announced_again_and_again(
    database: RedisDatabase, looking: Any
) -> None:
    """Whatever else is announced meanwhile: its index must not end before it."""
    seconds = 0.0
    store = RedisCheckpoints(database, keeping=Keeping(100))
    store.directory = Directory(database, 100_000, clock=lambda: seconds)
    for turn in range(5):
        meta = {"run_id": str(uuid4())}
        one = put(f"c{turn}", metadata=meta)
        await store.commit(TENANT, "t", Commit(puts=(one,)))
        if turn == 0:
            looking.zadd(index_key(TENANT), {"t": 1})
            looking.pexpire(index_key(TENANT), 50_000)
        seconds += 20
    assert looking.zscore(index_key(TENANT), "t") > 1
    assert looking.pttl(index_key(TENANT)) > 50_000


async def test_every_thread_is_listed_once_while_others_are_at_work(
    database: RedisDatabase, looking: Any
) -> None:
    """More of them than a page has; some move to the front meanwhile."""
    store = RedisCheckpoints(database)
    names = {f"t{n:03}" for n in range(600)}
    looking.zadd(index_key(TENANT), {name: int(name[1:]) + 1 for name in names})
    found: list[str] = []
    async for thread_id, _ in store.directory.threads(TENANT):
        if len(found) == 10:
            looking.zadd(index_key(TENANT), {"t005": 5000, "t599": 5001, "t300": 5002})
        found.append(thread_id)
    assert len(found) == 600
    assert set(found) == names
    assert found[:10] == [f"t{n}" for n in range(599, 589, -1)]
