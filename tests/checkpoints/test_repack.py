"""Checkpoints of the first format: still read, and rewritten while everybody works."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.repack import SQL, Repacked, repack
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.postgres.sql import Query
from threadmill.testing.checkpoints import put, writes

TENANT = "default"


@pytest.fixture
def old(database: Database) -> PostgresCheckpoints:
    """Writes as the first version did."""
    return PostgresCheckpoints(database, Codec(whole=True))


@pytest.fixture
def new(database: Database) -> PostgresCheckpoints:
    return PostgresCheckpoints(database)


async def _thread(store: PostgresCheckpoints, count: int, ns: str = "") -> str:
    thread, messages = str(uuid4()), []
    for number in range(count):
        messages.append({"text": f"{number} " + "word " * 30})
        parent = f"c{number - 1}" if number else None
        made = put(f"c{number}", parent, ns=ns, messages=list(messages), n=number)
        done = writes(f"c{number}", "task", ("messages", number), ns=ns)
        await store.commit(TENANT, thread, Commit(puts=(made,), writes=(done,)))
    return thread


async def _history(store: PostgresCheckpoints, thread: str) -> list[Any]:
    return [
        (s.ns, s.checkpoint, s.metadata, s.parent_id, s.ordinal, s.writes)
        async for s in store.list(TENANT, thread)
    ]


async def _repack(database: Database, page: int = 32) -> list[Repacked]:
    return [done async for done in repack(database, Codec(), TENANT, page=page)]


def _formats(uri: str, thread: str) -> dict[int, int]:
    query = (
        "SELECT format, count(*) FROM threadmill.checkpoint"
        " WHERE thread_id = %s GROUP BY format"
    )
    with psycopg.connect(uri) as connection:
        return dict(connection.execute(query, (thread,)).fetchall())


async def test_old_checkpoints_are_read_and_gone_on_from(
    old: PostgresCheckpoints, new: PostgresCheckpoints, database_uri: str
) -> None:
    thread = await _thread(old, 5)
    found = await new.get(TENANT, thread, "")
    assert found is not None
    messages = found.checkpoint["channel_values"]["messages"]
    assert len(messages) == 5
    more = put("c5", "c4", expected="c4", messages=[*messages, "new"])
    await new.commit(TENANT, thread, Commit(puts=(more,)))
    found = await old.get(TENANT, thread, "")
    assert found is not None
    assert found.checkpoint["channel_values"]["messages"] == [*messages, "new"]
    assert _formats(database_uri, thread) == {1: 5, 2: 1}


async def test_a_thread_reads_the_same_and_takes_less(
    old: PostgresCheckpoints,
    new: PostgresCheckpoints,
    database: Database,
    database_uri: str,
) -> None:
    threads = [await _thread(old, 40), await _thread(old, 3, ns="sub")]
    before = [await _history(new, thread) for thread in threads]
    steps = await _repack(database, page=16)
    assert [step.checkpoints for step in steps] == [16, 32, 43]
    assert steps[-1].bytes_after * 5 < steps[-1].bytes_before
    assert [await _history(new, thread) for thread in threads] == before
    assert _formats(database_uri, threads[0]) == {2: 40}
    assert await _repack(database) == []


async def test_it_passes_over_what_is_converted_already(
    old: PostgresCheckpoints,
    new: PostgresCheckpoints,
    database: Database,
    database_uri: str,
) -> None:
    """A page looks at so many and no more, and the next one goes on behind them."""
    counts = {await _thread(new, 9): 9, await _thread(old, 3): 3}
    counts[await _thread(new, 9)] = 9
    done = [
        step.checkpoints
        async for step in repack(database, Codec(), TENANT, page=2, scan=4)
    ]
    assert done[-1] == 3
    for thread, count in counts.items():
        assert _formats(database_uri, thread) == {2: count}


async def test_it_goes_on_where_it_was_stopped(
    old: PostgresCheckpoints,
    new: PostgresCheckpoints,
    database: Database,
    database_uri: str,
) -> None:
    thread = await _thread(old, 10)
    before = await _history(new, thread)
    async with aclosing(repack(database, Codec(), TENANT, page=4)) as steps:
        await anext(steps)
    assert _formats(database_uri, thread) == {1: 6, 2: 4}
    assert await _history(new, thread) == before
    assert (await _repack(database))[-1].checkpoints == 6
    assert await _history(new, thread) == before


async def test_a_row_that_changed_after_it_was_read_is_not_replaced(
    old: PostgresCheckpoints,
    new: PostgresCheckpoints,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody puts a checkpoint again between the read of a page and its write."""
    thread = await _thread(old, 4)
    shipping = PostgresCheckpoints.shipping

    async def late(self: Any, *about: Any) -> Any:
        if self not in {old, new}:
            changed = put("c2", "c1", messages=["put again"])
            await old.commit(TENANT, thread, Commit(puts=(changed,)))
        return await shipping(self, *about)

    monkeypatch.setattr(PostgresCheckpoints, "shipping", late)
    assert [step.checkpoints for step in await _repack(database)] == [3]
    found = await new.get(TENANT, thread, "", "c2")
    assert found is not None
    assert found.checkpoint["channel_values"] == {"messages": ["put again"]}


async def test_a_thread_pruned_between_two_pages_is_not_relied_on(
    old: PostgresCheckpoints, new: PostgresCheckpoints, database: Database
) -> None:
    thread = await _thread(old, 12)
    before = {
        state["id"]: state["channel_values"]
        for _, state, *_ in await _history(new, thread)
    }
    async with aclosing(repack(database, Codec(), TENANT, page=4)) as steps:
        await anext(steps)
        await Upkeep(new).prune(TENANT, [thread])
        late = put("c12", "c11", expected="c11", messages=before["c11"]["messages"])
        await old.commit(TENANT, thread, Commit(puts=(late,)))
        async for _ in steps:
            pass
    for number in (11, 12):
        found = await new.get(TENANT, thread, "", f"c{number}")
        assert found is not None
        assert (
            found.checkpoint["channel_values"]["messages"] == before["c11"]["messages"]
        )


@pytest.mark.parametrize("query", [SQL.whole_page, SQL.looked_at], ids=lambda q: q.name)
def test_pages_are_found_by_the_index_of_the_order(
    database_uri: str, query: Query
) -> None:
    """What is looked at comes in order; only what is found of it may be sorted."""
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_bitmapscan = off")
        connection.execute("SET enable_sort = off")
        connection.execute("SET ROLE threadmill_app")
        connection.execute("SET threadmill.tenant = 'default'")
        (plan,) = connection.execute(
            b"EXPLAIN (COSTS OFF, FORMAT JSON) " + query.text,
            {
                "tenant": TENANT,
                "after_thread": "t",
                "after_ns": "",
                "after_ordinal": 1,
                "limit": 32,
                "scan": 2000,
            },
        ).fetchone() or ([],)
    looked_at = _part(plan[0]["Plan"], "CTE looked_at")
    kinds = []
    while "Index Cond" not in looked_at:
        kinds.append(looked_at["Node Type"])
        (looked_at,) = looked_at["Plans"]
    assert set(kinds) <= {"Limit", "Result"}
    assert looked_at["Node Type"].startswith("Index")
    assert "tenant_id = 'default'" in looked_at["Index Cond"]


def _part(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """The part of a plan with this name; all of it, if it has no parts with names."""
    named = [part for part in plan["Plans"] if part.get("Subplan Name") == name]
    return named[0] if named else plan
