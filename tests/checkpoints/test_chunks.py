"""What checkpoints share: every change of a value reads back, and nothing dangles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.claims import Claims
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.domain.fence import Fence
from threadmill.drivers.postgres.database import Database
from threadmill.errors import HeadMoved, InvariantViolated
from threadmill.streams.base import NewEvent
from threadmill.testing.checkpoints import put

TENANT = "default"


@pytest.fixture
def here(database: Database) -> PostgresCheckpoints:
    """One process."""
    return PostgresCheckpoints(database)


@pytest.fixture
def there(database: Database) -> PostgresCheckpoints:
    """Another process: it knows nothing of what the first one has stored."""
    return PostgresCheckpoints(database)


@pytest.fixture
def thread() -> str:
    return str(uuid4())


def _long(count: int, mark: str = "x") -> list[str]:
    return [f"{mark}{number} {'word ' * 20}" for number in range(count)]


async def _put(
    store: PostgresCheckpoints, thread: str, *puts: Any, fence: Fence | None = None
) -> None:
    await store.commit(TENANT, thread, Commit(puts=puts), fence)


async def _values(
    store: PostgresCheckpoints, thread: str, ns: str = "", at: str | None = None
) -> Any:
    found = await store.get(TENANT, thread, ns, at)
    assert found is not None
    return found.checkpoint["channel_values"]


def _rows(uri: str, thread: str) -> tuple[int, int]:
    """Chunks of a thread, and how many of them no checkpoint names."""
    query = """
    SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (
             SELECT FROM threadmill.checkpoint c
              WHERE c.thread_id = k.thread_id AND k.name = ANY (c.chunks)))
      FROM threadmill.chunk k WHERE k.thread_id = %s
    """
    with psycopg.connect(uri) as connection:
        row = connection.execute(query, (thread,)).fetchone()
    assert row is not None
    return row[0], row[1]


# ------------------------------------------------------------------------- what is sent


async def test_an_append_sends_what_is_new(
    here: PostgresCheckpoints, thread: str, database_uri: str
) -> None:
    """The bytes of a thread grow with its messages, not with their square."""
    messages: list[str] = []
    sizes = {}
    for number in range(500):
        messages = [*messages, f"message {number} {uuid4()} " + "word " * 20]
        parent = f"c{number - 1}" if number else None
        await _put(here, thread, put(f"c{number}", parent, messages=messages))
        if number in {249, 499}:
            sizes[number + 1] = _bytes(database_uri, thread)
    assert sizes[500] < 2.4 * sizes[250]
    # All of them together, and what holding them costs, against one state stored whole.
    assert sizes[500] < 8 * sum(map(len, messages))
    assert await _values(here, thread) == {"messages": messages}


def _bytes(uri: str, thread: str) -> int:
    query = """
    SELECT (SELECT sum(octet_length(body) + 16 * cardinality(chunks))
              FROM threadmill.checkpoint WHERE thread_id = %(thread)s)
         + (SELECT sum(octet_length(data) + octet_length(name)) FROM threadmill.chunk
             WHERE thread_id = %(thread)s)
    """
    with psycopg.connect(uri) as connection:
        row = connection.execute(query, {"thread": thread}).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_large_value_that_stays_is_stored_once(
    here: PostgresCheckpoints, thread: str, database_uri: str
) -> None:
    document = {"text": "word " * 1000}
    for number in range(5):
        parent = f"c{number - 1}" if number else None
        await _put(here, thread, put(f"c{number}", parent, document=document, n=number))
    assert _rows(database_uri, thread) == (1, 0)
    assert await _values(here, thread, at="c2") == {"document": document, "n": 2}


async def test_small_values_need_no_chunk(
    here: PostgresCheckpoints, thread: str, database_uri: str
) -> None:
    await _put(here, thread, put("c1", short=["a", "b"], none=None, empty=[], n=1))
    assert _rows(database_uri, thread) == (0, 0)


async def test_a_process_that_has_read_sends_no_more_than_who_has_written(
    here: PostgresCheckpoints,
    there: PostgresCheckpoints,
    thread: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = _long(600)
    await _put(here, thread, put("c1", messages=messages))
    await _values(there, thread)
    sent: list[int] = []
    pack = there.codec.pack

    def counting(*args: Any) -> Any:
        packed = pack(*args)
        sent.append(len(packed.chunks))
        return packed

    monkeypatch.setattr(there.codec, "pack", counting)
    await _put(there, thread, put("c2", "c1", messages=[*messages, _long(1, "new")]))
    assert sent == [1]


async def test_a_subgraph_begins_with_what_its_parent_has(
    here: PostgresCheckpoints, thread: str, database_uri: str
) -> None:
    messages = _long(600)
    await _put(here, thread, put("c1", messages=messages))
    before, _ = _rows(database_uri, thread)
    await _put(here, thread, put("s1", ns="sub:1", messages=messages))
    assert _rows(database_uri, thread) == (before, 0)
    assert await _values(here, thread, "sub:1") == {"messages": messages}


# --------------------------------------------------------------------- nothing dangles


async def test_a_put_after_a_put_that_failed_sends_its_chunks_again(
    here: PostgresCheckpoints, thread: str
) -> None:
    """What the database refused is not known to be there."""
    messages = _long(20)
    await _put(here, thread, put("c1", messages=messages))
    more = [*messages, *_long(20, "y")]
    with pytest.raises(HeadMoved):
        await _put(here, thread, put("c2", "c1", expected="elsewhere", messages=more))
    again = put("c2", "c1", expected="c1", messages=more)
    await _put(here, thread, again)
    assert await _values(here, thread) == {"messages": more}


async def test_a_checkpoint_that_is_refused_with_its_child_is_forgotten(
    here: PostgresCheckpoints, thread: str
) -> None:
    messages = _long(20)
    with pytest.raises(HeadMoved):
        await _put(
            here,
            thread,
            put("c1", messages=messages),
            put("c2", "c1", expected="elsewhere", messages=messages),
        )
    await _put(
        here,
        thread,
        put("c1", messages=messages),
        put("c2", "c1", expected="c1", messages=messages),
    )
    assert await _values(here, thread) == {"messages": messages}


async def _prune_elsewhere(there: PostgresCheckpoints, thread: str) -> None:
    """Leaves a head that shares nothing with what was there."""
    await _put(there, thread, put("other", "c1", messages=["short"]))
    await Upkeep(there).prune(TENANT, [thread])


async def test_what_was_pruned_meanwhile_is_sent_again(
    here: PostgresCheckpoints,
    there: PostgresCheckpoints,
    thread: str,
    database_uri: str,
) -> None:
    """A process that remembers is refused, and answers by itself."""
    messages = _long(100)
    await _put(here, thread, put("c1", messages=messages))
    await _prune_elsewhere(there, thread)
    assert _rows(database_uri, thread) == (0, 0)
    await _put(here, thread, put("c2", "other", messages=[*messages, "new"]))
    assert await _values(there, thread) == {"messages": [*messages, "new"]}


async def test_what_was_deleted_and_made_again_meanwhile_is_sent_again(
    here: PostgresCheckpoints, there: PostgresCheckpoints, thread: str
) -> None:
    """The same ids are no proof: an epoch is never given twice."""
    messages = _long(100)
    await _put(here, thread, put("c1", messages=messages))
    await there.delete_thread(TENANT, thread)
    await _put(there, thread, put("c1", messages=["short"]))
    await _put(here, thread, put("c2", "c1", messages=messages))
    assert await _values(there, thread) == {"messages": messages}


async def test_what_a_checkpoint_no_longer_holds_is_sent_again(
    here: PostgresCheckpoints, there: PostgresCheckpoints, thread: str
) -> None:
    """The checkpoint is there, and the epoch tells that its chunks are not."""
    messages = _long(100)
    await _put(here, thread, put("c1", messages=messages))
    await _put(there, thread, put("c1", messages=["short"]))
    await Upkeep(there).prune(TENANT, [thread])
    await _put(here, thread, put("c2", "c1", messages=messages))
    assert await _values(there, thread) == {"messages": messages}


async def test_a_run_s_checkpoints_go_with_their_chunks(
    here: PostgresCheckpoints,
    there: PostgresCheckpoints,
    thread: str,
    database_uri: str,
) -> None:
    messages, run = _long(100), str(uuid4())
    await _put(here, thread, put("c1", messages=["short"]))
    await _put(
        here, thread, put("c2", "c1", metadata={"run_id": run}, messages=messages)
    )
    await Upkeep(there).delete_for_runs(TENANT, [run])
    assert _rows(database_uri, thread) == (0, 0)
    await _put(here, thread, put("c3", "c1", messages=messages))
    assert await _values(there, thread) == {"messages": messages}


async def test_pruning_keeps_what_another_namespace_still_names(
    here: PostgresCheckpoints, thread: str, database_uri: str
) -> None:
    messages = _long(100)
    await _put(here, thread, put("c1", messages=messages))
    await _put(here, thread, put("s1", ns="sub", messages=messages))
    await _put(here, thread, put("c2", "c1", messages=["short"]))
    await Upkeep(here).prune(TENANT, [thread])
    assert await _values(here, thread, "sub") == {"messages": messages}
    assert _rows(database_uri, thread)[1] == 0


async def test_a_copy_has_chunks_of_its_own(
    here: PostgresCheckpoints, thread: str, database_uri: str
) -> None:
    messages, copy = _long(100), str(uuid4())
    await _put(here, thread, put("c1", messages=messages))
    await _put(here, thread, put("c2", "c1", messages=[*messages, "new"]))
    await Upkeep(here).copy_thread(TENANT, thread, copy)
    await here.delete_thread(TENANT, thread)
    assert _rows(database_uri, thread) == (0, 0)
    assert await _values(here, copy, at="c1") == {"messages": messages}
    assert await _values(here, copy) == {"messages": [*messages, "new"]}


async def test_a_fenced_commit_that_is_done_again_happens_once(
    here: PostgresCheckpoints, there: PostgresCheckpoints, database_uri: str
) -> None:
    claims = Claims(database_uri)
    fence = await claims.claim()
    thread = str(fence.thread_id)
    messages = _long(100)
    first = put("c1", expected=None, messages=messages)
    await _put(here, thread, first, fence=fence)
    await _prune_elsewhere(there, thread)
    commit = Commit(
        puts=(put("c2", "other", expected="other", messages=messages),),
        events=(NewEvent("values", "{}"),),
    )
    await here.commit(TENANT, thread, commit, fence)
    assert await _values(there, thread) == {"messages": messages}
    with psycopg.connect(database_uri) as connection:
        events = connection.execute(
            "SELECT count(*) FROM threadmill.event WHERE thread_id = %s", (thread,)
        ).fetchone()
    assert events == (1,)


# ------------------------------------------------------------------- at the same time


@asynccontextmanager
async def _nobody_may_append(uri: str, thread: str) -> AsyncIterator[None]:
    """A commit with events comes to its last statement and waits there."""
    async with await psycopg.AsyncConnection.connect(uri) as connection:
        await connection.execute(
            "INSERT INTO threadmill.stream (tenant_id, thread_id)"
            " VALUES ('default', %s)"
            " ON CONFLICT (tenant_id, thread_id) DO UPDATE SET last_ms = 0",
            (thread,),
        )
        yield
        await connection.rollback()


async def _until_waiting(uri: str, sessions: int) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as watcher:
        while True:
            row = await (await watcher.execute(query)).fetchone()
            if row is not None and row[0] >= sessions:
                return


async def test_pruning_waits_for_a_put_that_names_what_it_would_drop(
    here: PostgresCheckpoints, there: PostgresCheckpoints, database_uri: str
) -> None:
    """Also in a namespace that has no head yet to wait for each other at."""
    fence = await Claims(database_uri).claim()
    thread = str(fence.thread_id)
    messages = _long(100)
    await _put(here, thread, put("c1", messages=messages))
    await _put(here, thread, put("c2", "c1", messages=["short"]))
    commit = Commit(
        puts=(put("s1", ns="sub", messages=messages),),
        events=(NewEvent("values", "{}"),),
    )
    async with _nobody_may_append(database_uri, thread):
        putting = asyncio.create_task(there.commit(TENANT, thread, commit, fence))
        await _until_waiting(database_uri, 1)
        pruning = asyncio.create_task(Upkeep(here).prune(TENANT, [thread]))
        waiting = asyncio.create_task(_until_waiting(database_uri, 2))
        await asyncio.wait({pruning, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    await asyncio.gather(putting, pruning)
    assert await _values(here, thread, "sub") == {"messages": messages}


async def test_pruning_while_two_processes_put_loses_nothing(
    here: PostgresCheckpoints,
    there: PostgresCheckpoints,
    thread: str,
    database_uri: str,
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
                await Upkeep(here).prune(TENANT, [thread])
            except HeadMoved:
                continue

    await asyncio.gather(work(), prune())
    await Upkeep(there).prune(TENANT, [thread])
    kept = [stored async for stored in here.list(TENANT, thread)]
    assert len(kept) == 6
    assert _rows(database_uri, thread)[1] == 0


async def test_a_chunk_that_is_missing_is_said_and_not_read_as_nothing(
    here: PostgresCheckpoints, thread: str, database_uri: str
) -> None:
    await _put(here, thread, put("c1", messages=_long(100)))
    with psycopg.connect(database_uri) as connection:
        connection.execute("DELETE FROM threadmill.chunk")
    with pytest.raises(InvariantViolated, match="of checkpoint c1 is missing"):
        await here.get(TENANT, thread, "")
