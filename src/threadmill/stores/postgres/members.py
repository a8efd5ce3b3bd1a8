"""The fleet in PostgreSQL: announcements and presence locks.

The lock itself is taken by the member's renewal thread (`renewal`), over a
session of its own; here others only look whether it is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.drivers.postgres.sql import Queries
from threadmill.stores.records import Presence

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from threadmill.drivers.postgres.database import Database
    from threadmill.stores.records import Member

MEMBERS = Queries(__package__, "members.sql")


class PostgresMembers:
    """The `Members` port.

    Args:
        database: where the schema lives.
        present: whether sessions are the members' own, so that a lock held by one
            tells that it lives; not so behind a transaction pooler.
    """

    def __init__(self, database: Database, *, present: bool) -> None:
        self._database = database
        self._present = present

    async def join(self, member: Member) -> int | None:
        """See `Members.join`."""
        async with self._database.system_tx() as tx:
            joined = tx.add(
                MEMBERS.join,
                worker_id=member.worker_id,
                name=member.name,
                role=member.role,
                version=member.version,
                graphs=list(member.graphs),
                labels=list(member.labels),
                slots=member.slots,
                present=self._present,
            )
        key: int | None = joined.rows[0]["lock_key"]
        return key

    async def leave(self, worker_id: UUID) -> None:
        """See `Members.leave`."""
        async with self._database.system_tx() as tx:
            tx.add(MEMBERS.leave, worker_id=worker_id)

    async def presence(
        self, *, since: datetime | None, settle_seconds: float
    ) -> Presence:
        """See `Members.presence`."""
        async with self._database.system_tx() as tx:
            found = tx.add(MEMBERS.presence, since=since, settle_seconds=settle_seconds)
        return Presence(**found.rows[0])

    async def forget_silent(self, *, silent_seconds: float) -> None:
        """See `Members.forget_silent`."""
        async with self._database.system_tx() as tx:
            tx.add(MEMBERS.forget_silent, silent_seconds=silent_seconds)
