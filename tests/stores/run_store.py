"""Runs and their activations as tests make them, and what is stored of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from langgraph.checkpoint.base import CheckpointMetadata, empty_checkpoint

from threadmill.checkpoints.base import Commit, Put
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.domain.fence import Fence
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.domain.run import RunEvent
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.postgres.sql import Query
from threadmill.engine.attempt import fence_of
from threadmill.stores.postgres.dead_letters import PostgresDeadLetters
from threadmill.stores.postgres.dispatcher import PostgresDispatcher
from threadmill.stores.postgres.runs import PostgresRuns
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import Claim, Ending, NewRun, Next, Retention, Run
from threadmill.streams.postgres import PostgresStream
from threadmill.streams.relay import Relay

TENANT = "default"
GRAPH = "graph"

# Tests of what the coordination of processes rests on: they run on PostgreSQL and on
# the store of the simulator (tests/simulation), which may differ in nothing of it.
contract = pytest.mark.contract

_ACTIVATIONS = Query(
    "activations",
    b"SELECT * FROM threadmill.activation WHERE tenant_id = %(tenant)s"
    b" AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s::uuid)"
    b" ORDER BY created_at",
)
_HOLDER = Query(
    "holder",
    b"SELECT holder FROM threadmill.thread WHERE tenant_id = %(tenant)s"
    b" AND thread_id = %(thread_id)s",
)
_TIMERS = Query(
    "timers",
    b"SELECT kind, ref FROM threadmill.timer WHERE tenant_id = %(tenant)s"
    b" ORDER BY kind, ref",
)
_MAKE_DUE = Query(
    "make_due",
    b"UPDATE threadmill.timer SET due_at = now() WHERE tenant_id = %(tenant)s",
)
_LET_EXPIRE = Query(
    "let_expire",
    b"UPDATE threadmill.activation SET lease_until = now() - interval '1 s'"
    b" WHERE tenant_id = %(tenant)s AND state = 'leased'",
)

# As a step leaves it that has spread its superstep: two tasks are held, two are ready,
# and one may not begin yet.
_SPREAD = Query(
    "spread",
    b"""
    WITH step AS (
      DELETE FROM threadmill.activation
       WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s RETURNING *
    ), s AS (
      INSERT INTO threadmill.superstep
        (tenant_id, run_id, thread_id, checkpoint_id, width, remaining)
      SELECT tenant_id, run_id, thread_id, 'c', 5, 3 FROM step
    )
    INSERT INTO threadmill.activation
      (tenant_id, activation_id, thread_id, run_id, kind, graph_id, task_id,
       checkpoint_id, node, labels, state, not_before, worker_id, lease_until)
    SELECT step.tenant_id, gen_random_uuid(), step.thread_id, step.run_id, 'task',
           step.graph_id, t.node, 'c', t.node, t.labels, t.state, t.at,
           CASE t.state WHEN 'leased' THEN %(worker_id)s END,
           CASE t.state WHEN 'leased' THEN now() + interval '1 min' END
      FROM step, (VALUES ('a', '{}'::text[], 'leased', now()),
                         ('a2', '{}', 'leased', now()),
                         ('b', '{gpu}', 'ready', now()), ('c', '{}', 'ready', now()),
                         ('d', '{}', 'ready', 'infinity')) t (node, labels, state, at)
    """,
)


class RunStore:
    """The accepting and the working side over one database."""

    def __init__(self, database: Database, relay: Relay | None = None) -> None:
        retention = Retention()
        self.database = database
        self.runs = PostgresRuns(database, retention, relay)
        self.dispatcher = PostgresDispatcher(database, retention, relay)
        self.threads = PostgresThreads(database, relay)
        self.dead_letters = PostgresDeadLetters(database, retention)
        self.stream = PostgresStream(database)
        self.checkpoints = PostgresCheckpoints(database, relay=relay)

    # --- doing -------------------------------------------------------------------

    async def thread(self) -> UUID:
        made = await self.threads.create(
            TENANT, uuid4(), metadata={}, if_exists="raise"
        )
        return made.thread_id

    async def accept(self, thread_id: UUID, **changes: Any) -> Run:
        return await self.accept_for(TENANT, thread_id, **changes)

    async def accept_for(self, tenant: str, thread_id: UUID, **changes: Any) -> Run:
        accepted = await self.runs.accept(tenant, new_run(thread_id, **changes))
        return accepted.run

    async def claim(self, n: int = 1, worker_id: UUID | None = None) -> list[Claim]:
        return list(await self.dispatcher.claim(worker_id or uuid4(), [GRAPH], n, 60.0))

    async def begin(self, worker_id: UUID | None = None) -> tuple[Fence, Run]:
        """Claims what is ready, which is one run, and begins it."""
        (claim,) = await self.claim(worker_id=worker_id)
        run = await self.dispatcher.begin(claim)
        return replace(fence_of(claim), attempt=run.attempt), run

    async def finish(
        self, fence: Fence, event: RunEvent = RunEvent.SUCCEED, **ending: Any
    ) -> Next | None:
        finished = await self.dispatcher.finish(fence, Ending(event, **ending))
        return finished.next

    async def carry_out_due(self) -> Sequence[str]:
        """Lets every timer be due and carries it out; returns their kinds."""
        await self.make_timers_due()
        timers = await self.dispatcher.due(hold_seconds=60, limit=100)
        for timer in timers:
            await self.dispatcher.carry_out([timer])
        return sorted(timer.kind for timer in timers)

    async def make_timers_due(self) -> None:
        await self._write(_MAKE_DUE)

    async def let_leases_expire(self) -> None:
        await self._write(_LET_EXPIRE)

    async def spread(self, run_id: UUID, worker_id: UUID) -> None:
        """Makes tasks of a run's step, some of them held by the worker."""
        async with self.database.tenant_tx(TENANT) as tx:
            tx.add(_SPREAD, tenant=TENANT, run_id=run_id, worker_id=worker_id)

    # --- looking -----------------------------------------------------------------

    async def activations(
        self, thread_id: UUID | None = None
    ) -> Sequence[Mapping[str, Any]]:
        return await self._read(_ACTIVATIONS, thread_id=thread_id)

    async def holder(self, thread_id: UUID) -> UUID | None:
        rows = await self._read(_HOLDER, thread_id=thread_id)
        holder: UUID | None = rows[0]["holder"]
        return holder

    async def timers(self) -> Sequence[tuple[str, str]]:
        return [(row["kind"], row["ref"]) for row in await self._read(_TIMERS)]

    async def statuses(self, thread_id: UUID) -> list[str]:
        """Of a thread's runs, in the order of acceptance."""
        found = await self.runs.list(TENANT, thread_id, limit=1000, offset=0)
        return [run.status.value for run in reversed(found)]

    async def _read(self, query: Query, **params: Any) -> Sequence[Mapping[str, Any]]:
        async with self.database.tenant_tx(TENANT, read_only=True) as tx:
            found = tx.add(query, tenant=TENANT, **params)
        return found.rows

    async def _write(self, query: Query) -> None:
        async with self.database.tenant_tx(TENANT) as tx:
            tx.add(query, tenant=TENANT)


def new_run(thread_id: UUID, **changes: Any) -> NewRun:
    run = NewRun(
        run_id=uuid4(),
        thread_id=thread_id,
        assistant_id=uuid4(),
        graph_id=GRAPH,
        kwargs={"stream_mode": ["values"]},
        strategy=MultitaskStrategy.ENQUEUE,
    )
    return replace(run, **changes)


async def put(store: RunStore, fence: Fence, step: int, parent: str | None) -> str:
    """A root checkpoint of the run that holds the fence."""
    checkpoint_id = str(uuid4())
    checkpoint = empty_checkpoint()
    checkpoint["id"] = checkpoint_id
    metadata = CheckpointMetadata(step=step)
    new = Put("", checkpoint, metadata, parent, expected_head=parent)
    commit = Commit(puts=(new,))
    await store.checkpoints.commit(TENANT, str(fence.thread_id), commit, fence)
    return checkpoint_id


async def until_somebody_waits(uri: str) -> None:
    """Wait until a session of this database waits for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    connecting = psycopg.AsyncConnection.connect(uri, autocommit=True)
    async with asyncio.timeout(30), await connecting as watcher:
        while True:
            found = await watcher.execute(query)
            if (await found.fetchone() or (0,))[0]:
                return
