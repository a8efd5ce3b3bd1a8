"""Checkpoints in Redis: the fence, crashes, time to live, and what chunks rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import redis as client

from tests.fixtures.redis import RedisServer, until
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.known import Memory
from threadmill.checkpoints.redis.keys import thread_keys
from threadmill.checkpoints.redis.records import header_of
from threadmill.checkpoints.redis.store import RedisCheckpoints
from threadmill.checkpoints.redis.upkeep import RedisUpkeep
from threadmill.domain.fence import Fence
from threadmill.drivers.redis.database import RedisDatabase, RedisLimits
from threadmill.errors import (
    HeadMoved,
    InvariantViolated,
    LeaseLost,
    StoreUnavailable,
)
from threadmill.streams.base import NewEvent
from threadmill.testing.checkpoints import put, writes

TENANT = "default"


@pytest.fixture
async def database(redis_uri: str) -> AsyncIterator[RedisDatabase]:
    opened = RedisDatabase(redis_uri)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def here(database: RedisDatabase) -> RedisCheckpoints:
    """One process."""
    return RedisCheckpoints(database)


@pytest.fixture
def there(database: RedisDatabase) -> RedisCheckpoints:
    """Another process: it knows nothing of what the first one has stored."""
    return RedisCheckpoints(database)


@pytest.fixture
def looking(redis_uri: str) -> Any:
    """A look at the keys themselves."""
    with client.Redis.from_url(redis_uri) as connection:
        yield connection


@pytest.fixture
def thread() -> str:
    return str(uuid4())


def _claim(token: int = 1, thread_id: Any = None) -> Fence:
    return Fence(TENANT, thread_id or uuid4(), uuid4(), token, uuid4())


def _keys(looking: Any) -> set[str]:
    return {key.decode() for key in looking.scan_iter()}


def _long(count: int, mark: str = "x") -> list[str]:
    return [f"{mark}{number} {'word ' * 20}" for number in range(count)]


async def _put(
    store: RedisCheckpoints, thread: str, *puts: Any, fence: Fence | None = None
) -> None:
    await store.commit(TENANT, thread, Commit(puts=puts), fence)


async def _values(store: RedisCheckpoints, thread: str, ns: str = "") -> Any:
    found = await store.get(TENANT, thread, ns)
    assert found is not None
    return found.checkpoint["channel_values"]


# ------------------------------------------------------------------------- the fence


async def test_one_of_many_writers_that_expect_the_same_head_wins(
    here: RedisCheckpoints, thread: str
) -> None:
    await _put(here, thread, put("c1", expected=None))
    results = await asyncio.gather(
        *(_put(here, thread, put(f"d{n}", "c1", expected="c1")) for n in range(8)),
        return_exceptions=True,
    )
    refused = [result for result in results if result is not None]
    assert [type(error) for error in refused] == [HeadMoved] * 7
    assert len([s async for s in here.list(TENANT, thread)]) == 2


async def test_one_of_many_writers_that_expect_no_head_wins(
    here: RedisCheckpoints, thread: str
) -> None:
    results = await asyncio.gather(
        *(_put(here, thread, put(f"d{n}", expected=None)) for n in range(8)),
        return_exceptions=True,
    )
    refused = [result for result in results if result is not None]
    assert [type(error) for error in refused] == [HeadMoved] * 7


async def test_a_stale_token_leaves_every_key_as_it_was(
    here: RedisCheckpoints, looking: Any
) -> None:
    old = _claim()
    thread = str(old.thread_id)
    await here.install(old)
    await _put(here, thread, put("c1", messages=_long(20)), fence=old)
    await here.install(replace(old, token=2))

    def everything() -> dict[bytes, bytes]:
        return {key: looking.dump(key) for key in looking.keys("{default:*")}

    before = everything()
    commit = Commit(
        writes=(writes("c1", "t1", ("a", 1)),),
        puts=(put("c2", "c1", messages=_long(30)), put("s1", ns="sub")),
    )
    with pytest.raises(LeaseLost, match=str(old.activation_id)):
        await here.commit(TENANT, thread, commit, old)
    with pytest.raises(LeaseLost):
        await here.install(old)
    assert everything() == before


async def test_every_right_of_an_attempt_must_hold(here: RedisCheckpoints) -> None:
    fence = _claim()
    fence = replace(fence, also=((uuid4(), 2),))
    await here.install(fence)
    thread = str(fence.thread_id)
    await _put(here, thread, put("c1"), fence=fence)
    taken = Fence(TENANT, fence.thread_id, fence.also[0][0], 3, fence.run_id)
    await here.install(taken)
    with pytest.raises(LeaseLost):
        await _put(here, thread, put("c2", "c1"), fence=fence)
    await _put(here, thread, put("c2", "c1"), fence=taken)


async def test_nobody_below_the_floor_writes_or_comes_back(
    here: RedisCheckpoints,
) -> None:
    fence, late = _claim(5), _claim(6)
    late = replace(late, thread_id=fence.thread_id)
    thread = str(fence.thread_id)
    await here.install(fence)
    await here.raise_floor(TENANT, thread, 7)
    await here.raise_floor(TENANT, thread, 3)
    with pytest.raises(LeaseLost):
        await _put(here, thread, put("c1"), fence=fence)
    for claim in (fence, late):
        with pytest.raises(LeaseLost):
            await here.install(claim)
    await here.install(replace(late, token=8))


async def test_a_fence_covers_its_own_thread_and_tenant(here: RedisCheckpoints) -> None:
    fence = _claim()
    with pytest.raises(InvariantViolated, match="does not cover"):
        await here.commit(TENANT, str(uuid4()), Commit(), fence)
    with pytest.raises(InvariantViolated, match="does not cover"):
        await here.commit("other", str(fence.thread_id), Commit(), fence)


async def test_what_is_not_redis_s_to_store_is_refused(here: RedisCheckpoints) -> None:
    fence = _claim()
    await here.install(fence)
    parts: tuple[dict[str, Any], ...] = (
        {"release": True},
        {"progress": True},
        {"events": (NewEvent("values", "{}"),)},
    )
    for part in parts:
        with pytest.raises(InvariantViolated, match="are PostgreSQL's"):
            await here.commit(TENANT, str(fence.thread_id), Commit(**part), fence)


# ----------------------------------------------------------------- crashes and scripts


async def test_a_killed_server_loses_nothing_that_it_has_acknowledged(
    private_redis: RedisServer, thread: str
) -> None:
    """With `appendfsync always`: what was answered is on disk."""
    database = RedisDatabase(private_redis.uri)
    await database.open()
    store = RedisCheckpoints(database)
    acknowledged: list[str] = []

    async def work() -> None:
        for number in range(10_000):
            head = acknowledged[-1] if acknowledged else None
            name = f"c{number}"
            await _put(store, thread, put(name, head, expected=head, n=_long(number)))
            acknowledged.append(name)

    working = asyncio.create_task(work())
    await until(lambda: len(acknowledged) >= 40)
    private_redis.kill()
    with pytest.raises(StoreUnavailable):
        await working
    private_redis.start()
    stored = [s.checkpoint["id"] async for s in store.list(TENANT, thread)][::-1]
    # What was under way may have been stored without an answer.
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) - len(acknowledged) in {0, 1}
    # The process goes on, with the scripts that the new server has never seen.
    await _put(store, thread, put("next", stored[-1], expected=stored[-1]))
    assert (await store.get(TENANT, thread, "")) is not None
    await database.close()


async def test_a_server_that_has_forgotten_the_scripts_gets_them_again(
    here: RedisCheckpoints, thread: str, looking: Any
) -> None:
    await _put(here, thread, put("c1", n=1))
    looking.script_flush()
    await _put(here, thread, put("c2", "c1", expected="c1", n=2))
    looking.script_flush()
    assert await _values(here, thread) == {"n": 2}
    looking.script_flush()
    with pytest.raises(HeadMoved):
        await _put(here, thread, put("c3", "c1", expected="c1"))


async def test_an_operation_is_one_command(
    here: RedisCheckpoints, thread: str, looking: Any
) -> None:
    """Once the server has the scripts, and but for a look at the list of threads."""

    async def operate(n: int) -> None:
        await _put(here, thread, put(f"c{n}", messages=_long(40 + n)))
        result = Commit(writes=(writes(f"c{n}", "t", ("a", 1)),))
        await here.commit(TENANT, thread, result)
        await _values(here, thread)
        await here.ancestors(TENANT, thread, "", None)

    await operate(1)
    looking.config_resetstat()
    await operate(2)
    sent = looking.info("commandstats")
    assert sent["cmdstat_evalsha"]["calls"] == 4
    assert "cmdstat_eval" not in sent
    # Inside of a script there is no ping, no select and no second script.
    assert not {"cmdstat_ping", "cmdstat_select", "cmdstat_multi"} & sent.keys()


async def test_a_connection_is_usable_after_a_cancelled_operation(
    redis_uri: str, thread: str, looking: Any
) -> None:
    """No answer is ever taken for that of another question."""
    limits = RedisLimits(pool_max=1, command_timeout_seconds=1)
    database = RedisDatabase(redis_uri, limits=limits)
    await database.open()
    store = RedisCheckpoints(database)
    for number in range(6):
        looking.client_pause(60_000, all=False)
        under_way = asyncio.create_task(_put(store, thread, put(f"c{number}")))
        await until(lambda: looking.info("clients")["blocked_clients"])
        for _ in range(number):
            await asyncio.sleep(0)
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        looking.client_unpause()
        await _put(store, thread, put(f"d{number}", n=number))
        assert await _values(store, thread) == {"n": number}
    await database.close()


# ---------------------------------------------------------------------------- chunks


async def test_a_put_that_failed_leaves_nothing_to_rely_on(
    here: RedisCheckpoints, thread: str
) -> None:
    messages = _long(20)
    await _put(here, thread, put("c1", messages=messages))
    more = [*messages, *_long(20, "y")]
    with pytest.raises(HeadMoved):
        await _put(here, thread, put("c2", "c1", expected="elsewhere", messages=more))
    sent: list[int] = []
    pack = here.codec.pack

    def counting(*args: Any) -> Any:
        packed = pack(*args)
        sent.append(len(packed.chunks))
        return packed

    here.codec.pack = counting  # type: ignore[method-assign, assignment]
    await _put(here, thread, put("c2", "c1", expected="c1", messages=more))
    assert len(sent) == 1
    assert await _values(here, thread) == {"messages": more}


async def test_what_was_pruned_or_deleted_meanwhile_is_sent_again(
    here: RedisCheckpoints, there: RedisCheckpoints, thread: str
) -> None:
    messages = _long(100)
    await _put(here, thread, put("c1", messages=messages))
    await _put(there, thread, put("other", "c1", messages=["short"]))
    await RedisUpkeep(there).prune(TENANT, [thread])
    await _put(here, thread, put("c2", "other", messages=[*messages, "new"]))
    assert await _values(there, thread) == {"messages": [*messages, "new"]}
    await there.delete_thread(TENANT, thread)
    await _put(here, thread, put("c3", messages=messages))
    assert await _values(there, thread) == {"messages": messages}


async def test_a_chunk_that_is_missing_is_said_and_not_read_as_nothing(
    here: RedisCheckpoints, thread: str, looking: Any
) -> None:
    await _put(here, thread, put("c1", messages=_long(100)))
    looking.delete(thread_keys(TENANT, thread)[4])
    with pytest.raises(InvariantViolated, match="of checkpoint c1 is missing"):
        await here.get(TENANT, thread, "")
    looking.delete(thread_keys(TENANT, thread)[1])
    with pytest.raises(InvariantViolated, match="the head c1"):
        await here.get(TENANT, thread, "")


async def test_a_state_of_thousands_of_chunks_is_stored_and_read(
    here: RedisCheckpoints, there: RedisCheckpoints, thread: str
) -> None:
    """Lua passes no more than some thousands of values to a function."""
    values: dict[str, Any] = {
        f"channel {n}": f"{n} " + "word " * 60 for n in range(9000)
    }
    await _put(here, thread, put("c1", **values))
    await _put(here, thread, put("c2", "c1", **values, more=1))
    assert await _values(there, thread) == {**values, "more": 1}
    await RedisUpkeep(there).copy_thread(TENANT, thread, "copy")
    assert await _values(there, "copy") == {**values, "more": 1}


async def test_pruning_while_two_processes_put_loses_nothing(
    here: RedisCheckpoints, there: RedisCheckpoints, thread: str, looking: Any
) -> None:
    messages = _long(40)
    done = asyncio.Event()

    async def work() -> None:
        for number in range(60):
            store = (here, there)[number % 7 == 0]
            # Back and forth, so that what was dropped is wanted again.
            values = messages[: 10 + number % 30]
            parent = f"c{number - 1}" if number else None
            await _put(store, thread, put(f"c{number}", parent, messages=values))
            sub = put(f"s{number}", ns=f"sub:{number % 5}", messages=values)
            await _put(store, thread, sub)
            assert await _values(store, thread) == {"messages": values}
        done.set()

    async def prune() -> None:
        while not done.is_set():
            try:
                await RedisUpkeep(here).prune(TENANT, [thread])
            except HeadMoved:
                continue

    await asyncio.gather(work(), prune())
    await RedisUpkeep(there).prune(TENANT, [thread])
    kept = [stored async for stored in here.list(TENANT, thread)]
    assert len(kept) == 6
    assert _unused(looking, thread) == 0


def _unused(looking: Any, thread: str) -> int:
    """Chunks that no checkpoint names."""
    _, checkpoint, _, _, chunk, *_ = thread_keys(TENANT, thread)
    named = {
        name for data in looking.hvals(checkpoint) for name in header_of(data).names
    }
    return len(set(looking.hkeys(chunk)) - named)


async def test_a_thread_of_which_nothing_is_left_has_no_key(
    here: RedisCheckpoints, thread: str, looking: Any
) -> None:
    run = str(uuid4())
    meta = {"run_id": run}
    await _put(here, thread, put("c1", metadata=meta, messages=_long(50)))
    await here.commit(TENANT, thread, Commit(writes=(writes("c1", "t", ("a", 1)),)))
    await RedisUpkeep(here).delete_for_runs(TENANT, [run.upper()])
    tag = thread_keys(TENANT, thread)[0].partition("}")[0]
    assert not [key for key in _keys(looking) if key.startswith(tag)]


async def test_a_copy_has_chunks_of_its_own_and_belongs_to_no_run(
    here: RedisCheckpoints, thread: str
) -> None:
    messages, run = _long(100), str(uuid4())
    meta = {"run_id": run}
    await _put(here, thread, put("c1", metadata=meta, messages=messages))
    await _put(here, thread, put("c2", "c1", messages=[*messages, "new"]))
    upkeep = RedisUpkeep(here)
    await upkeep.copy_thread(TENANT, thread, "copy")
    await here.delete_thread(TENANT, thread)
    await upkeep.delete_for_runs(TENANT, [run])
    copied = [s async for s in here.list(TENANT, "copy")]
    assert [s.checkpoint["id"] for s in copied] == ["c2", "c1"]
    assert [s.run_id for s in copied] == [None, None]
    here.memory = Memory()
    await _put(here, "copy", put("c3", "c2", expected="c2", messages=messages))
    assert await _values(here, "copy") == {"messages": messages}


# ----------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a:b", "c"), ("a", "b:c")),
        (("a}", "b"), ("a", "}b")),
        (("t", "x}y"), ("t", "x}z")),
        (("t", "{x}"), ("t", "x")),
        (("t", "a%3Ab"), ("t", "a:b")),
        (("t", "ä"), ("t", "Ã¤")),
    ],
)
async def test_no_name_reaches_into_another_s_keys(
    here: RedisCheckpoints, one: tuple[str, str], other: tuple[str, str]
) -> None:
    for tenant, thread in (one, other):
        commit = Commit(puts=(put("c1", who=[tenant, thread]),))
        await here.commit(tenant, thread, commit)
    await here.delete_thread(*one)
    found = await here.get(*other, "")
    assert found is not None
    assert found.checkpoint["channel_values"] == {"who": list(other)}
    assert await here.get(*one, "") is None
