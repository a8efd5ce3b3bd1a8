"""Erasing a thread: one place that knows every table it leaves rows in."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from threadmill.drivers.postgres.database import Result, Transaction

ERASE = Queries(__package__, "erase.sql")


def erase_thread(tx: Transaction, thread_id: UUID) -> Result:
    """Adds the statements that erase a thread and all it holds.

    The caller has locked the thread. Returns the result that has a row iff the
    thread existed. A worker in the middle of it loses its fence.
    """
    where = {"tenant": tx.tenant, "thread_id": thread_id}
    for query in (
        ERASE.runs,
        ERASE.supersteps,
        ERASE.activations,
        ERASE.dead_letters,
        ERASE.effects,
        ERASE.hold_chunks,
        ERASE.chunks_elsewhere,
        ERASE.chunks,
        ERASE.writes,
        ERASE.values,
        ERASE.checkpoints,
        ERASE.heads,
        ERASE.events,
        ERASE.stream,
        ERASE.timers,
    ):
        tx.add(query, **where)
    return tx.add(ERASE.thread, **where)
