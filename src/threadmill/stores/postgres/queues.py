"""How much work waits, in PostgreSQL; counted anew each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.drivers.postgres.sql import Queries
from threadmill.stores.operations import Queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.drivers.postgres.database import Database

QUEUES = Queries(__package__, "queues.sql")


class PostgresQueues:
    """The `Queues` port.

    Args:
        database: where the schema lives.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> Sequence[Queue]:
        """See `Queues.list`."""
        async with self._database.system_tx() as tx:
            found = tx.add(QUEUES.list)
        queues = [
            Queue(
                labels=tuple(row["labels"]),
                runnable=row["runnable"],
                oldest_runnable_seconds=row["oldest_seconds"],
                running=row["running"],
                blocked=row["blocked"],
                delayed=row["delayed"],
                dead_letters=row["dead_letters"],
            )
            for row in found.rows
        ]
        # An empty queue is an answer, too: whoever scales by it must not miss it.
        if not any(queue.labels == () for queue in queues):
            queues.insert(0, Queue(labels=()))
        return queues
