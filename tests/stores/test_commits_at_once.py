"""What others see of a commit that stands still in the middle of its transaction.

Nothing until it is over; and who comes later with what belongs to the same run waits,
and then sees all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg

from tests.stores.run_store import TENANT, RunStore
from threadmill.checkpoints.base import (
    Commit,
    Committed,
    EndOfTasks,
    Plan,
    PlannedTask,
)
from threadmill.domain.fence import Fence
from threadmill.streams.base import NewEvent
from threadmill.testing.checkpoints import put

# A commit writes its events last: who cannot is in the middle of it.
_EVENTS = (NewEvent("event", "{}"),)
_LOCK_STREAM = """
SELECT 1 FROM threadmill.stream WHERE thread_id = %s FOR UPDATE
"""
_WAITING = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@asynccontextmanager
async def _standing_still(uri: str, thread_id: UUID) -> AsyncIterator[None]:
    """Commits of this thread come to their end afterwards only."""
    async with await psycopg.AsyncConnection.connect(uri) as connection:
        await connection.execute(_LOCK_STREAM, (thread_id,))
        yield


async def _until_waiting(uri: str, sessions: int) -> None:
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as watcher:
        while True:
            row = await (await watcher.execute(_WAITING)).fetchone()
            if row is not None and row[0] >= sessions:
                return


async def _one_after_the_other(
    uri: str, thread_id: UUID, first: Awaitable[Any], second: Awaitable[Any]
) -> list[Any]:
    """Lets the second one come while the first one is in the middle of its commit."""
    async with _standing_still(uri, thread_id):
        one = asyncio.ensure_future(first)
        await _until_waiting(uri, 1)
        two = asyncio.ensure_future(second)
        await _until_waiting(uri, 2)
    return [await one, await two]


async def _commit(store: RunStore, fence: Fence, **parts: Any) -> Committed:
    commit = Commit(events=_EVENTS, **parts)
    return await store.checkpoints.commit(TENANT, str(fence.thread_id), commit, fence)


async def _begun(store: RunStore) -> Fence:
    await store.accept(await store.thread())
    fence, _ = await store.begin()
    await _commit(store, fence)
    return fence


def _plan(width: int) -> Plan:
    return Plan(
        "c",
        [PlannedTask(f"t{n}", f"p{n}", "node", mine=True) for n in range(width)],
        lease_seconds=60,
    )


async def test_a_commit_is_seen_as_a_whole_or_not_at_all(
    store: RunStore, database_uri: str
) -> None:
    """The checkpoint, the hand-over and the events that tell of it are one."""
    fence = await _begun(store)
    thread_id, told = fence.thread_id, await store.stream.end(TENANT, fence.thread_id)
    async with _standing_still(database_uri, thread_id):
        committing = asyncio.ensure_future(
            _commit(store, fence, puts=(put("c1"),), release=True)
        )
        await _until_waiting(database_uri, 1)
        assert await store.checkpoints.get(TENANT, str(thread_id), "") is None
        assert [row["state"] for row in await store.activations()] == ["leased"]
    await committing
    assert await store.checkpoints.get(TENANT, str(thread_id), "") is not None
    assert [row["state"] for row in await store.activations()] == ["ready"]
    assert await store.stream.end(TENANT, thread_id) == told + 1


async def test_tasks_that_are_planned_while_their_run_is_cancelled_go_with_it(
    store: RunStore, database_uri: str
) -> None:
    """Whoever cancels waits for the plan, and then sees its tasks."""
    fence = await _begun(store)
    assert fence.run_id is not None
    await _one_after_the_other(
        database_uri,
        fence.thread_id,
        _commit(store, fence, plan=_plan(3)),
        store.runs.cancel(TENANT, fence.thread_id, fence.run_id),
    )
    assert await store.statuses(fence.thread_id) == ["interrupted"]
    assert await store.activations() == []


async def test_of_two_that_end_the_last_tasks_at_once_one_joins(
    store: RunStore, database_uri: str
) -> None:
    """None, and the run would stand still for ever; both, and it would go on twice."""
    fence = await _begun(store)
    planned = (await _commit(store, fence, plan=_plan(2))).planned
    ends = [
        _commit(
            store,
            replace(fence, activation_id=activation_id, token=token),
            ended=EndOfTasks([activation_id], lease_seconds=60),
        )
        for activation_id, token in planned.values()
    ]
    committed = await _one_after_the_other(database_uri, fence.thread_id, *ends)
    assert [one.join is not None for one in committed] == [False, True]
    assert [row["kind"] for row in await store.activations()] == ["join"]
