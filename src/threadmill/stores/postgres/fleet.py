"""The members in PostgreSQL, for whoever watches over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import NotFound
from threadmill.stores.operations import MemberState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database

FLEET = Queries(__package__, "fleet.sql")


class PostgresFleet:
    """The `Fleet` port.

    Args:
        database: where the schema lives.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> Sequence[MemberState]:
        """See `Fleet.list`."""
        async with self._database.system_tx() as tx:
            found = tx.add(FLEET.list)
        return [_member_of(row) for row in found.rows]

    async def drain(self, worker_id: UUID) -> MemberState:
        """See `Fleet.drain`."""
        async with self._database.system_tx() as tx:
            tx.add(FLEET.drain, worker_id=worker_id)
            found = tx.add(FLEET.list)
        for row in found.rows:
            if row["worker_id"] == worker_id:
                return _member_of(row)
        msg = f"no process of the fleet has the id {worker_id}"
        raise NotFound(msg)


def _member_of(row: Row) -> MemberState:
    return MemberState(
        worker_id=row["worker_id"],
        name=row["name"],
        role=row["role"],
        version=row["version"],
        graphs=row["graphs"],
        labels=row["labels"],
        slots=row["slots"],
        taken=row["taken"],
        started_at=row["started_at"],
        seen_at=row["seen_at"],
        silent_seconds=row["silent_seconds"],
        draining=row["drain"],
    )
