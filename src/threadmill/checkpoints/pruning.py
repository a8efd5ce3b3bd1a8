"""Prunes threads at rest, where runs and checkpoints lie in one PostgreSQL.

Each thread is one transaction (a long history several), which first locks the thread's
row, as accepting does, and then sees that nothing happens on it. So a run is accepted
either before, and the thread is left alone, or after, and finds the head where it was.
Heads are compared as well: who writes to a thread without a run takes no such lock.

LangGraph gives each call of a subgraph a namespace with a head of its own, for the task
that calls it. Once the thread's last run is over, no such task is left: these go too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from threadmill.checkpoints.upkeep import (
    PRUNE_MAX,
    Kept,
    Upkeep,
    add_keep_latest,
    add_weigh,
)
from threadmill.domain.retention import Strategy
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import HeadMoved, StateLost, ThreadBusy
from threadmill.stores.postgres.erase import erase_thread
from threadmill.stores.postgres.threads import THREADS
from threadmill.stores.retention import Freed

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from threadmill.checkpoints.postgres import PostgresCheckpoints
    from threadmill.drivers.postgres.database import Transaction

SQL = Queries(__package__, "pruning.sql")
_log = structlog.get_logger(__name__)


class PostgresPruning:
    """The `Pruning` port.

    Args:
        checkpoints: where state lies, in the database that has the runs.
    """

    def __init__(self, checkpoints: PostgresCheckpoints) -> None:
        self._database = checkpoints.database
        self._relay = checkpoints.relay
        self._upkeep = Upkeep(checkpoints)

    async def prune(
        self,
        tenant: str,
        thread_id: UUID,
        strategy: Strategy,
        *,
        as_of: datetime | None = None,
    ) -> Freed | None:
        """See `Pruning.prune`. Lock order: thread, chunks, head, stream."""
        freed = Freed(threads=1)
        try:
            while True:
                if strategy is Strategy.DELETE:
                    return await self._delete(tenant, thread_id, as_of)
                done = await self._keep_latest(tenant, thread_id, as_of)
                freed += done
                if done.checkpoints < PRUNE_MAX:
                    return freed
        except (ThreadBusy, HeadMoved):
            return None
        except StateLost as lost:
            # What must stay cannot be told; the threads behind it are not held up.
            _log.warning("prune.left", thread=str(thread_id), cause=str(lost))
            return None

    async def _delete(
        self, tenant: str, thread_id: UUID, as_of: datetime | None
    ) -> Freed | None:
        async with self._database.tenant_tx(tenant) as tx:
            _require_rest(tx, thread_id, as_of, delete=True)
            held = tx.add(SQL.weigh, tenant=tenant, thread_id=thread_id)
            erase_thread(tx, thread_id)
        await self._relay.forget(tenant, thread_id)
        row = held.rows[0]
        return Freed(1, row["checkpoints"], row["bytes"])

    async def _keep_latest(
        self, tenant: str, thread_id: UUID, as_of: datetime | None
    ) -> Freed:
        kept = await self._kept(tenant, thread_id)
        async with self._database.tenant_tx(tenant) as tx:
            _require_rest(tx, thread_id, as_of, delete=False)
            gone, dropped = add_keep_latest(tx, str(thread_id), kept)
            tx.add(
                SQL.pruned,
                tenant=tenant,
                thread_id=thread_id,
                kept=len(kept.checkpoints),
            )
        row = gone.rows[0]
        return Freed(0, row["checkpoints"], row["bytes"] + dropped.rows[0]["bytes"])

    async def _kept(self, tenant: str, thread_id: UUID) -> Kept:
        return await self._upkeep.kept(tenant, str(thread_id), is_over=SQL.is_over)

    async def weigh(
        self, tenant: str, thread_id: UUID, strategy: Strategy
    ) -> Freed | None:
        """See `Pruning.weigh`."""
        delete = strategy is Strategy.DELETE
        where = {"tenant": tenant, "thread_id": thread_id}
        try:
            kept = None if delete else await self._kept(tenant, thread_id)
            async with self._database.tenant_tx(tenant, read_only=True) as tx:
                tx.add(SQL.require_rest, **where, as_of=None, delete=delete)
                found = tx.add(THREADS.get, **where)
                if kept is None:
                    held = tx.add(SQL.weigh, **where)
                else:
                    held = add_weigh(tx, str(thread_id), kept)
        except (ThreadBusy, StateLost):
            return None
        if found.one is None or found.one["temporary"]:
            return None
        return Freed(1, held.rows[0]["checkpoints"], held.rows[0]["bytes"])


def _require_rest(
    tx: Transaction, thread_id: UUID, as_of: datetime | None, *, delete: bool
) -> None:
    where = {"tenant": tx.tenant, "thread_id": thread_id}
    tx.add(SQL.lock_at_rest, **where)
    tx.add(SQL.require_rest, **where, as_of=as_of, delete=delete)
