"""Appending to the event log inside a writer's own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.database import Result, Transaction
    from threadmill.streams.base import NewEvent

STREAM = Queries(__package__, "postgres.sql")


def add_events(tx: Transaction, fence: Fence, events: Sequence[NewEvent]) -> Result:
    """Adds `events` to a transaction that has locked the fence.

    Its row tells the number of the first one, and their time.

    Args:
        tx: the writer's transaction.
        fence: whose run and attempt the events belong to.
        events: at least one, in order.
    """
    return tx.add(
        STREAM.append,
        tenant=fence.tenant,
        thread_id=fence.thread_id,
        run_id=fence.run_id,
        attempt=fence.attempt,
        token=fence.token,
        events=[event.event for event in events],
        data=[event.data for event in events],
    )
