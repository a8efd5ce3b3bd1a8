"""The facts about a run in PostgreSQL, read in one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from threadmill.domain.facts import (
    DeadFacts,
    Facts,
    RunFacts,
    SuperstepFacts,
    ThreadFacts,
    WorkerFacts,
    WorkFacts,
)
from threadmill.domain.run import RunStatus, ThreadStatus
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import NotFound
from threadmill.stores.postgres.dead_letters import DEAD
from threadmill.stores.postgres.fleet import FLEET

if TYPE_CHECKING:
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database

EXPLANATIONS = Queries(__package__, "explanations.sql")

_WORK_MAX: Final = 1000


class PostgresExplanations:
    """The `Explanations` port.

    Args:
        database: where the schema lives.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def facts(self, tenant: str, run_id: UUID) -> Facts:
        """See `Explanations.facts`."""
        where = {"tenant": tenant, "run_id": run_id}
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            run = tx.add(EXPLANATIONS.run, **where)
            dead = tx.add(DEAD.get, **where)
            work = tx.add(EXPLANATIONS.work, limit=_WORK_MAX, **where)
            superstep = tx.add(EXPLANATIONS.superstep, **where)
            workers = tx.add(FLEET.list)
        if run.one is None:
            msg = f"run {run_id} not found"
            raise NotFound(msg)
        return Facts(
            now=run.one["now"],
            run=_run_of(run.one),
            thread=_thread_of(run.one),
            dead=None if dead.one is None else _dead_of(dead.one),
            work=[_work_of(row) for row in work.rows],
            superstep=None
            if superstep.one is None
            else SuperstepFacts(**superstep.one),
            workers=[_worker_of(row) for row in workers.rows],
        )


def _run_of(row: Row) -> RunFacts:
    return RunFacts(
        run_id=row["run_id"],
        thread_id=row["thread_id"],
        graph_id=row["graph_id"],
        status=RunStatus(row["status"]),
        not_before=row["not_before"],
        finished_at=row["finished_at"],
        error=row["error"],
        waits=row["waits"],
    )


def _thread_of(row: Row) -> ThreadFacts:
    return ThreadFacts(
        status=ThreadStatus(row["thread_status"]),
        holder=row["holder"],
        updating_until=row["updating_until"],
        ahead=row["ahead"],
    )


def _dead_of(row: Row) -> DeadFacts:
    return DeadFacts(
        cause=row["cause"],
        attempts=row["attempts"],
        died_at=row["died_at"],
        checkpoint_id=row["checkpoint_id"],
    )


def _work_of(row: Row) -> WorkFacts:
    return WorkFacts(
        activation_id=row["activation_id"],
        kind=row["kind"],
        graph_id=row["graph_id"],
        labels=frozenset(row["labels"]),
        ready_at=row["ready_at"],
        attempt=row["attempt"],
        node=row["node"],
        worker_id=row["worker_id"],
        claimed_at=row["claimed_at"],
        lease_until=row["lease_until"],
        cause=row["cause"],
        avoid=row["avoid"],
        avoid_until=row["avoid_until"],
    )


def _worker_of(row: Row) -> WorkerFacts:
    return WorkerFacts(
        worker_id=row["worker_id"],
        name=row["name"],
        graphs=frozenset(row["graphs"]),
        labels=frozenset(row["labels"]),
        slots=row["slots"],
        taken=row["taken"],
        seen_at=row["seen_at"],
        draining=row["drain"],
    )
