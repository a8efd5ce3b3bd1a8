"""Upkeep of a thread that does not stand still."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from tests.fixtures.claims import Claims
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.drivers.postgres.database import Database
from threadmill.errors import HeadMoved
from threadmill.testing.checkpoints import put, writes


@pytest.fixture
def checkpoints(database: Database) -> PostgresCheckpoints:
    return PostgresCheckpoints(database)


async def test_pruning_a_thread_that_goes_on_loses_no_head(
    checkpoints: PostgresCheckpoints,
) -> None:
    """Either the put or the pruning waits; the head and what is new stay."""
    thread, upkeep = str(uuid4()), Upkeep(checkpoints)
    done = asyncio.Event()

    async def work() -> None:
        for n in range(60):
            parent = f"c{n - 1}" if n else None
            commit = Commit(
                puts=(put(f"c{n}", parent),),
                # As LangGraph's background writes do, these come before their put.
                writes=(writes(f"c{n + 1}", "t1", ("a", n)),),
            )
            await checkpoints.commit("default", thread, commit)
        done.set()

    async def prune() -> None:
        while not done.is_set():
            try:
                await upkeep.prune("default", [thread])
            except HeadMoved:
                continue

    await asyncio.gather(work(), prune())
    await upkeep.prune("default", [thread])
    kept = [s async for s in checkpoints.list("default", thread)]
    assert [s.checkpoint["id"] for s in kept] == ["c59"]
    assert list(kept[0].writes) == [("t1", "a", 58)]
    assert kept[0].parent_id is None
    next_put = Commit(puts=(put("c60", "c59", expected="c59"),))
    await checkpoints.commit("default", thread, next_put)
    found = await checkpoints.get("default", thread, "")
    assert found is not None
    assert (found.checkpoint["id"], found.ordinal) == ("c60", 61)
    assert list(found.writes) == [("t1", "a", 59)]


async def test_deleting_a_run_under_its_activation_stops_the_activation(
    checkpoints: PostgresCheckpoints, database_uri: str
) -> None:
    """The fence still holds, the head does not: the compare refuses the next commit."""
    fence = await Claims(database_uri).claim()
    thread = str(fence.thread_id)

    async def commit(name: str, expected: str | None) -> None:
        puts = (put(name, expected, expected=expected),)
        await checkpoints.commit("default", thread, Commit(puts=puts), fence)

    await commit("c1", None)
    await commit("c2", "c1")
    await Upkeep(checkpoints).delete_for_runs("default", [str(fence.run_id)])
    assert await checkpoints.get("default", thread, "") is None
    with pytest.raises(HeadMoved):
        await commit("c3", "c2")


async def test_deleting_a_run_that_only_answered_asks_again(
    checkpoints: PostgresCheckpoints, database_uri: str
) -> None:
    """What it wrote at another run's checkpoint goes; the question stays."""
    claims = Claims(database_uri)
    asking = await claims.claim()
    thread = str(asking.thread_id)
    question = writes("c1", "t1", ("__interrupt__", "really?"))
    commit = Commit(puts=(put("c1"),), writes=(question,))
    await checkpoints.commit("default", thread, commit, asking)
    answering = await claims.next_run(asking)
    answer = writes("c1", "t1", ("__resume__", ["yes"]), ("a", 1))
    commit = Commit(puts=(put("c2", "c1"),), writes=(answer,))
    await checkpoints.commit("default", thread, commit, answering)
    await Upkeep(checkpoints).delete_for_runs("default", [str(answering.run_id)])
    found = await checkpoints.get("default", thread, "")
    assert found is not None
    assert found.checkpoint["id"] == "c1"
    assert list(found.writes) == [("t1", "__interrupt__", "really?")]
