"""Threads and assistants in PostgreSQL, and the hold of a state update on a thread."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg
import pytest

from threadmill.domain.fence import Fence
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.domain.run import ThreadStatus
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.errors import AlreadyExists, Conflict, NotFound, ThreadBusy
from threadmill.stores.postgres.assistants import PostgresAssistants
from threadmill.stores.postgres.runs import PostgresRuns
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import (
    AssistantFilter,
    NewAssistant,
    NewRun,
    Retention,
    ThreadFilter,
)

WORKER = uuid4()

# Somebody else deletes a thread right after a statement has found it.
_DELETES = """
CREATE FUNCTION delete_doomed() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN DELETE FROM threadmill.thread WHERE metadata ? ''doomed''; RETURN NULL; END';
CREATE TRIGGER delete_doomed AFTER INSERT ON threadmill.thread
  FOR EACH STATEMENT EXECUTE FUNCTION delete_doomed();
"""


@pytest.fixture
def threads(database: Database) -> PostgresThreads:
    return PostgresThreads(database)


@pytest.fixture
def runs(database: Database) -> PostgresRuns:
    return PostgresRuns(database, Retention())


async def new_thread(threads: PostgresThreads, tenant: str = "default") -> UUID:
    thread = await threads.create(tenant, uuid4(), metadata={}, if_exists="raise")
    return thread.thread_id


async def begin(threads: PostgresThreads, thread_id: UUID) -> Fence:
    return await threads.begin_update(
        "default",
        thread_id,
        worker_id=WORKER,
        lease_seconds=10,
        graph_id="graph",
    )


def new_run(thread_id: UUID, **changes: object) -> NewRun:
    run = NewRun(
        run_id=uuid4(),
        thread_id=thread_id,
        assistant_id=uuid4(),
        graph_id="graph",
        kwargs={},
        strategy=MultitaskStrategy.ENQUEUE,
    )
    return replace(run, **changes)  # type: ignore[arg-type]


async def test_creating_at_once_makes_one_thread(threads: PostgresThreads) -> None:
    thread_id = uuid4()

    async def create() -> bool:
        try:
            await threads.create("default", thread_id, metadata={}, if_exists="raise")
        except AlreadyExists:
            return False
        return True

    assert sorted(await asyncio.gather(*(create() for _ in range(8)))) == [
        *[False] * 7,
        True,
    ]


async def test_tenants_do_not_see_each_other(threads: PostgresThreads) -> None:
    thread_id = uuid4()
    for tenant in ("a", "b"):
        await threads.create(
            tenant, thread_id, metadata={"of": tenant}, if_exists="raise"
        )
    assert (await threads.get("a", thread_id)).metadata == {"of": "a"}
    await threads.patch("a", thread_id, metadata={"of": "still a"})
    assert (await threads.get("b", thread_id)).metadata == {"of": "b"}
    await threads.delete("a", thread_id)
    assert await threads.count("b", ThreadFilter()) == 1
    with pytest.raises(NotFound):
        await threads.get("a", thread_id)


@pytest.mark.parametrize(
    "sort_by", ["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
)
async def test_both_directions_of_every_order(
    threads: PostgresThreads, sort_by: str
) -> None:
    for _ in range(5):
        await new_thread(threads)
    only = ThreadFilter()
    up = await threads.search("default", only, sort_by=sort_by, descending=False)
    keys = [getattr(thread, sort_by) for thread in up]
    assert keys == sorted(keys)
    down = await threads.search("default", only, sort_by=sort_by, descending=True)
    assert [getattr(thread, sort_by) for thread in down] == keys[::-1]


async def test_threads_of_stateless_runs_are_not_found(
    threads: PostgresThreads, runs: PostgresRuns
) -> None:
    thread_id = uuid4()
    await runs.accept("default", new_run(thread_id, create_thread=True, temporary=True))
    assert await threads.search("default", ThreadFilter()) == []
    assert await threads.count("default", ThreadFilter()) == 0
    assert (await threads.get("default", thread_id)).temporary


async def test_an_update_takes_a_free_thread(
    threads: PostgresThreads, runs: PostgresRuns
) -> None:
    thread_id = await new_thread(threads)
    fence = await begin(threads, thread_id)
    assert (fence.thread_id, fence.run_id) == (thread_id, None)
    assert fence.token > 0
    with pytest.raises(ThreadBusy):
        await begin(threads, thread_id)
    with pytest.raises(ThreadBusy):
        await runs.accept(
            "default", new_run(thread_id, strategy=MultitaskStrategy.REJECT)
        )
    assert await threads.end_update(fence, status=ThreadStatus.INTERRUPTED) is None
    shown = await threads.get("default", thread_id)
    assert shown.status is ThreadStatus.INTERRUPTED
    second = await begin(threads, thread_id)
    assert second.token > fence.token


async def test_a_run_waits_behind_an_update(
    threads: PostgresThreads, runs: PostgresRuns, database_uri: str
) -> None:
    thread_id = await new_thread(threads)
    fence = await begin(threads, thread_id)
    accepted = await runs.accept("default", new_run(thread_id))
    assert _activations(database_uri) == ["update"]
    following = await threads.end_update(fence, status=ThreadStatus.IDLE)
    assert following is not None
    assert following.run_id == accepted.run.run_id
    assert _activations(database_uri) == ["step"]
    shown = await threads.get("default", thread_id)
    assert shown.status is ThreadStatus.BUSY


async def test_ending_an_update_twice_changes_nothing(
    threads: PostgresThreads, runs: PostgresRuns
) -> None:
    thread_id = await new_thread(threads)
    fence = await begin(threads, thread_id)
    await runs.accept("default", new_run(thread_id))
    await threads.end_update(fence, status=None)
    assert await threads.end_update(fence, status=ThreadStatus.IDLE) is None
    shown = await threads.get("default", thread_id)
    assert shown.status is ThreadStatus.BUSY


async def test_an_update_is_refused_behind_a_run(
    threads: PostgresThreads, runs: PostgresRuns
) -> None:
    thread_id = await new_thread(threads)
    with pytest.raises(NotFound):
        await begin(threads, uuid4())
    await runs.accept("default", new_run(thread_id))
    with pytest.raises(ThreadBusy, match="active or queued"):
        await begin(threads, thread_id)


async def test_a_delayed_run_does_not_stand_in_the_way(
    threads: PostgresThreads, runs: PostgresRuns
) -> None:
    thread_id = await new_thread(threads)
    await runs.accept("default", new_run(thread_id, after_seconds=3600.0))
    fence = await begin(threads, thread_id)
    await threads.end_update(fence, status=None)
    assert (await threads.get("default", thread_id)).status is ThreadStatus.IDLE


async def test_runs_and_updates_at_once_exclude_each_other(
    threads: PostgresThreads, runs: PostgresRuns, database_uri: str
) -> None:
    """Whatever the order, one of them holds the thread and no run is lost."""
    for _ in range(10):
        thread_id = await new_thread(threads)
        update, accepted = await asyncio.gather(
            begin(threads, thread_id),
            runs.accept("default", new_run(thread_id)),
            return_exceptions=True,
        )
        assert not isinstance(accepted, BaseException)
        if isinstance(update, Fence):
            assert _activations(database_uri, thread_id) == ["update"]
            await threads.end_update(update, status=None)
        else:
            assert isinstance(update, ThreadBusy)
        assert _activations(database_uri, thread_id) == ["step"]


async def test_deleting_leaves_nothing(
    threads: PostgresThreads, runs: PostgresRuns, database_uri: str
) -> None:
    thread_id = await new_thread(threads)
    await runs.accept("default", new_run(thread_id, after_seconds=0.0))
    await runs.accept("default", new_run(thread_id, after_seconds=60.0))
    await threads.delete("default", thread_id)
    with psycopg.connect(database_uri) as connection:
        for table in ("thread", "run", "activation", "timer", "event", "checkpoint"):
            left = connection.execute(
                f"SELECT count(*) FROM threadmill.{table}"  # noqa: S608
            ).fetchone()
            assert left == (0,), table


async def test_assistants_are_ensured_once(database: Database) -> None:
    assistants = PostgresAssistants(database)
    new = [
        NewAssistant(assistant_id=uuid4(), graph_id=name, name=name, metadata={"n": 1})
        for name in ("a", "b")
    ]
    await asyncio.gather(*(assistants.ensure("default", new) for _ in range(4)))
    changed = [replace(new[0], name="changed")]
    await assistants.ensure("default", changed)
    found = await assistants.search("default", AssistantFilter(), sort_by="name")
    assert [one.name for one in found] == ["b", "a"]
    assert await assistants.count("default", AssistantFilter(graph_id="a")) == 1
    assert await assistants.search("other", AssistantFilter()) == []
    with pytest.raises(NotFound):
        await assistants.get("other", new[0].assistant_id)


def _activations(uri: str, thread_id: UUID | None = None) -> list[str]:
    with psycopg.connect(uri) as connection:
        rows = connection.execute(
            "SELECT kind FROM threadmill.activation"
            " WHERE %(id)s::uuid IS NULL OR thread_id = %(id)s",
            {"id": thread_id},
        )
        return [row[0] for row in rows]


async def test_a_thread_that_is_deleted_meanwhile_is_made(
    fresh_database_uri: str,
) -> None:
    """Also where the one that is there would have done."""
    database = Database(fresh_database_uri, name="test", limits=Limits(pool_max=1))
    await database.open()
    try:
        threads, thread_id = PostgresThreads(database), uuid4()
        await threads.create(
            "acme", thread_id, metadata={"doomed": 1}, if_exists="raise"
        )
        with psycopg.connect(fresh_database_uri, autocommit=True) as admin:
            admin.execute(_DELETES)
        made = await threads.create(
            "acme", thread_id, metadata={"n": 1}, if_exists="do_nothing"
        )
        assert made.metadata == {"n": 1}
        with pytest.raises(Conflict, match="try again"):
            await threads.create(
                "acme", uuid4(), metadata={"doomed": 1}, if_exists="do_nothing"
            )
    finally:
        await database.close()
