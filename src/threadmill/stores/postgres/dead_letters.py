"""Dead letters in PostgreSQL: stored with a run's end, and put back."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from threadmill.domain.run import RunEvent, sources, target
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import NotFound
from threadmill.stores.operations import DeadLetter, Redriven
from threadmill.stores.postgres.rows import run_of
from threadmill.stores.postgres.runs import RUNS, jsonb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database, Transaction
    from threadmill.stores.operations import DeadLetterFilter
    from threadmill.stores.records import NewDeadLetter, Retention

DEAD = Queries(__package__, "dead_letters.sql")


class PostgresDeadLetters:
    """The `DeadLetters` port.

    Args:
        database: where the schema lives.
        retention: how long the thread of a stateless run stays once it is discarded.
    """

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention

    async def list(
        self, tenant: str, only: DeadLetterFilter, *, limit: int, offset: int = 0
    ) -> Sequence[DeadLetter]:
        """See `DeadLetters.list`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                DEAD.list, limit=limit, offset=offset, **_filter(tenant, only)
            )
        return [_dead_letter_of(row) for row in found.rows]

    async def count(self, tenant: str, only: DeadLetterFilter) -> int:
        """See `DeadLetters.count`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            counted = tx.add(DEAD.count, **_filter(tenant, only))
        n: int = counted.rows[0]["n"]
        return n

    async def get(self, tenant: str, run_id: UUID) -> DeadLetter:
        """See `DeadLetters.get`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(DEAD.get, tenant=tenant, run_id=run_id)
        if found.one is None:
            msg = f"run {run_id} is no dead letter"
            raise NotFound(msg)
        return _dead_letter_of(found.one)

    async def redrive(self, tenant: str, run_id: UUID, *, queue_max: int) -> Redriven:
        """See `DeadLetters.redrive`."""
        thread_id = (await self.get(tenant, run_id)).thread_id
        thread = {"tenant": tenant, "thread_id": thread_id}
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(RUNS.lock_thread, **thread)
            tx.add(DEAD.lock, tenant=tenant, run_id=run_id)
            tx.add(
                DEAD.may_redrive,
                tenant=tenant,
                run_id=run_id,
                sources=[status.value for status in sources(RunEvent.REDRIVE)],
            )
            tx.add(RUNS.may_accept, reject=False, queue_max=queue_max, **thread)
            redriven = tx.add(
                DEAD.redrive,
                run_id=run_id,
                target=target(RunEvent.REDRIVE).value,
                **thread,
            )
        row = redriven.rows[0]
        return Redriven(run_of(row), starts=row["starts"])

    async def discard(self, tenant: str, run_id: UUID) -> None:
        """See `DeadLetters.discard`."""
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(
                DEAD.discard,
                tenant=tenant,
                run_id=run_id,
                temporary_seconds=self._retention.temporary_seconds,
            )


def add_dead_letter(tx: Transaction, run_id: UUID, dead: NewDeadLetter) -> None:
    """Adds the dead letter of a run that this transaction has ended before."""
    tx.add(
        DEAD.add,
        tenant=tx.tenant,
        run_id=run_id,
        node=dead.node,
        cause=jsonb(dead.cause),
        attempts=dead.attempts,
    )


def _filter(tenant: str, only: DeadLetterFilter) -> Mapping[str, object]:
    return {
        "tenant": tenant,
        "graph_id": only.graph_id,
        "thread_id": only.thread_id,
    }


def _dead_letter_of(row: Row) -> DeadLetter:
    return DeadLetter(
        run_id=row["run_id"],
        thread_id=row["thread_id"],
        graph_id=row["graph_id"],
        node=row["node"],
        cause=row["cause"],
        attempts=row["attempts"],
        checkpoint_id=row["checkpoint_id"],
        died_at=row["died_at"],
    )
