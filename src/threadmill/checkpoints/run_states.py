"""Runs together with their state, where both lie in one PostgreSQL.

A run begins, ends and is looked at in the same transaction as the checkpoint that
belongs to that moment: one round trip and one commit instead of two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from threadmill.checkpoints.base import RunState
from threadmill.domain.run import FAILED
from threadmill.errors import NotFound, StateLost
from threadmill.stores.postgres.dispatcher import (
    add_begin,
    add_close,
    add_ending,
    begun_run,
    finished,
)
from threadmill.stores.postgres.rows import run_of
from threadmill.stores.postgres.runs import RUNS

if TYPE_CHECKING:
    from uuid import UUID

    from threadmill.checkpoints.base import Commit
    from threadmill.checkpoints.postgres import PostgresCheckpoints
    from threadmill.checkpoints.shipment import Shipment
    from threadmill.domain.fence import Fence
    from threadmill.stores.records import Claim, Ending, Finished, Retention


class PostgresRunStates:
    """The `RunStates` port.

    Args:
        checkpoints: where state lies, in the database that has the runs.
        retention: how long a finished run's leftovers stay.
    """

    def __init__(self, checkpoints: PostgresCheckpoints, retention: Retention) -> None:
        self._checkpoints = checkpoints
        self._database = checkpoints.database
        self._retention = retention

    async def begin(self, claim: Claim) -> RunState:
        """See `RunStates.begin`."""
        async with self._database.tenant_tx(claim.tenant) as tx:
            begun = add_begin(tx, claim)
            head = self._checkpoints.add_get(tx, str(claim.thread_id))
        run = begun_run(claim, begun)
        return RunState(run, await self._checkpoints.got(claim.tenant, head))

    async def finish(self, fence: Fence, ending: Ending, rest: Commit) -> Finished:
        """See `RunStates.finish`.

        Lock order: thread, run, activation, chunks, head, stream.
        """
        ending = replace(ending, events=[*rest.events, *ending.events])
        thread_id = str(fence.thread_id)

        async def transact(shipment: Shipment) -> Finished:
            async with self._database.tenant_tx(fence.tenant) as tx:
                closed = add_close(tx, fence)
                self._checkpoints.add_state(tx, thread_id, rest, fence, shipment)
                ended = add_ending(tx, fence, ending, self._retention)
            await self._checkpoints.relay.tell(ended.appended(fence, ending))
            return finished(closed, ended.promoted)

        return await self._checkpoints.shipping(fence.tenant, thread_id, rest, transact)

    async def look(self, tenant: str, run_id: UUID, thread_id: UUID) -> RunState:
        """See `RunStates.look`. A run that ends between both reads has no state yet."""
        async with self._database.tenant_tx(tenant) as tx:
            run = tx.add(RUNS.get, tenant=tenant, run_id=run_id, thread_id=thread_id)
            end = self._checkpoints.add_get(tx, str(thread_id), ended_run=run_id)
        if run.one is None:
            msg = f"run {run_id} not found"
            raise NotFound(msg)
        found = run_of(run.one)
        try:
            return RunState(found, await self._checkpoints.got(tenant, end))
        except StateLost:
            if found.status in FAILED:
                return RunState(found, None)  # it is answered with its error
            raise
