"""Reads the event log from PostgreSQL.

Writing is no business of this adapter: events are appended by the transactions that
cause them, see `streams.postgres_append`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.domain.run import RunStatus
from threadmill.errors import NotFound
from threadmill.streams.base import Event, Look
from threadmill.streams.postgres_append import STREAM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database


class PostgresStream:
    """The `Stream` port.

    Args:
        database: where the schema lives.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        after: int,
        limit: int,
        run_id: UUID | None = None,
    ) -> Sequence[Event]:
        """See `Stream.read`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                STREAM.read,
                tenant=tenant,
                thread_id=thread_id,
                run_id=run_id,
                after=after,
                limit=limit,
            )
        return [_event_of(row) for row in found.rows]

    async def look(
        self, tenant: str, thread_id: UUID, run_id: UUID, *, after: int, limit: int
    ) -> Look:
        """See `Stream.look`."""
        run = {"tenant": tenant, "thread_id": thread_id, "run_id": run_id}
        # One snapshot: a run's last events commit no later than its end.
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            status = tx.add(STREAM.run_status, **run)
            events = tx.add(STREAM.read, after=after, limit=limit, **run)
        if status.one is None:
            msg = f"run {run_id} not found"
            raise NotFound(msg)
        return Look(
            RunStatus(status.one["status"]), [_event_of(row) for row in events.rows]
        )

    async def end(self, tenant: str, thread_id: UUID) -> int:
        """See `Stream.end`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            last = tx.add(STREAM.stream_end, tenant=tenant, thread_id=thread_id)
        return last.one["seq"] if last.one is not None else 0


def _event_of(row: Row) -> Event:
    return Event(
        seq=row["seq"],
        ms=row["ms"],
        run_id=row["run_id"],
        attempt=row["attempt"],
        event=row["event"],
        data=row["data"],
    )
