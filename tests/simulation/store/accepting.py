"""The accepting side in memory: `Runs`, and of `Threads` what coordination needs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tests.simulation.store.tables import (
    ActivationRow,
    RunRow,
    Tables,
    ThreadRow,
    moment,
)
from threadmill.domain.fence import Fence
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.domain.retention import Ttl
from threadmill.domain.run import RunEvent, RunStatus, ThreadStatus, thread_after
from threadmill.errors import (
    AlreadyExists,
    Conflict,
    LeaseLost,
    NotFound,
    Overloaded,
    ThreadBusy,
)
from threadmill.stores.records import (
    Accepted,
    Cancelled,
    Json,
    NewRun,
    Next,
    Run,
    Thread,
)


class MemoryRuns:
    """See `Runs`; `delete` is not needed here."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def accept(self, tenant: str, new: NewRun) -> Accepted:
        """See `Runs.accept`."""
        known = self._owner_of_key(tenant, new)
        if known is not None:
            return Accepted(known, new=False)
        thread = self._may_accept(tenant, new)
        tables, now = self._tables, self._tables.clock()
        tables.threads[tenant, new.thread_id] = thread
        if new.idempotency_key is not None:
            key = (tenant, new.idempotency_key)
            tables.keys[key] = (new.body_hash, new.run_id)
        run = RunRow(tenant, new, thread.next_seq, now + new.after_seconds, now, now)
        tables.runs[tenant, new.run_id] = run
        tables.of_thread.setdefault((tenant, new.thread_id), []).append(run)
        thread.next_seq += 1
        thread.metadata.update(new.thread_metadata)
        if new.after_seconds > 0:
            tables.add_timer(tenant, str(new.run_id), run.not_before)
        elif thread.holder is None:
            thread.holder = new.run_id
            tables.activate(tenant, new)
        if thread.holder is not None:
            thread.status = ThreadStatus.BUSY
        return Accepted(run.record(), new=True)

    def _owner_of_key(self, tenant: str, new: NewRun) -> Run | None:
        if new.idempotency_key is None:
            return None
        owner = self._tables.keys.get((tenant, new.idempotency_key))
        if owner is None:
            return None
        body_hash, run_id = owner
        if body_hash != new.body_hash:
            msg = "the Idempotency-Key was used with another request"
            raise Conflict(msg)
        return self._tables.runs[tenant, run_id].record()

    def _may_accept(self, tenant: str, new: NewRun) -> ThreadRow:
        """The run's thread, perhaps a new one; nothing is stored yet."""
        tables = self._tables
        thread = tables.threads.get((tenant, new.thread_id))
        if thread is None:
            if not new.create_thread:
                raise NotFound("thread or assistant not found")
            thread = ThreadRow(tenant, new.thread_id, tables.clock())
        runs = tables.of_thread.get((tenant, new.thread_id), ())
        pending = [run for run in runs if run.status is RunStatus.PENDING]
        if new.strategy is MultitaskStrategy.REJECT and (
            thread.holder is not None
            or tables.oldest_that_may_go(tenant, new.thread_id) is not None
        ):
            raise ThreadBusy
        if len(pending) >= new.queue_max:
            raise Overloaded("too many queued runs (THREADMILL_QUEUE_PER_THREAD_MAX)")
        if (tenant, new.run_id) in tables.runs:
            raise AlreadyExists
        return thread

    async def get(
        self, tenant: str, run_id: UUID, thread_id: UUID | None = None
    ) -> Run:
        """See `Runs.get`."""
        run = self._tables.runs.get((tenant, run_id))
        if run is None or thread_id not in {None, run.new.thread_id}:
            raise NotFound(f"run {run_id} not found")
        return run.record()

    async def list(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        limit: int,
        offset: int,
        status: str | None = None,
    ) -> Sequence[Run]:
        """See `Runs.list`."""
        runs = self._tables.of_thread.get((tenant, thread_id), ())
        found = [run.record() for run in runs if status in {None, run.status.value}]
        return found[::-1][offset : offset + limit]

    async def cancel(self, tenant: str, thread_id: UUID, run_id: UUID) -> Cancelled:
        """See `Runs.cancel`."""
        tables, event = self._tables, RunEvent.CANCEL
        run = tables.may_end(tenant, run_id, event, refusal=NotFound)
        if run.new.thread_id != thread_id:
            raise NotFound
        tables.end(run, event)
        stopped = tables.drop(tenant, run_id)
        goes_on = tables.promote(
            tenant, thread_id, holder=run_id, status=thread_after(event, more=False)
        )
        rights = [(row.activation_id, row.token) for row in stopped]
        return Cancelled(run.record(), rights, goes_on)


class MemoryThreads:
    """Of `Threads`: making and reading them, and updates of their state."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def create(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        metadata: Json,
        if_exists: str,
        ttl: Ttl | None = None,  # noqa: ARG002 - nothing expires here
    ) -> Thread:
        """See `Threads.create`."""
        row = self._tables.threads.get((tenant, thread_id))
        if row is None:
            row = ThreadRow(tenant, thread_id, self._tables.clock(), metadata=metadata)
            self._tables.threads[tenant, thread_id] = row
        elif if_exists != "do_nothing":
            raise AlreadyExists
        return _record(row)

    async def get(self, tenant: str, thread_id: UUID) -> Thread:
        """See `Threads.get`."""
        row = self._tables.threads.get((tenant, thread_id))
        if row is None:
            raise NotFound(f"thread {thread_id} not found")
        return _record(row)

    async def begin_update(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        worker_id: UUID,
        lease_seconds: float,
        graph_id: str,
    ) -> Fence:
        """See `Threads.begin_update`."""
        tables = self._tables
        thread = tables.threads.get((tenant, thread_id))
        if thread is None:
            raise NotFound("thread not found")
        if thread.holder is not None or tables.oldest_that_may_go(tenant, thread_id):
            raise ThreadBusy
        row = ActivationRow(
            tenant,
            tables.ids(),
            thread_id,
            None,
            "update",
            graph_id,
            tables.clock(),
        )
        row.lease(tables.draw_token(), worker_id, tables.clock() + lease_seconds)
        tables.activations[row.activation_id] = row
        thread.holder = row.activation_id
        return Fence(tenant, thread_id, row.activation_id, row.token, None)

    async def end_update(
        self, fence: Fence, *, status: ThreadStatus | None
    ) -> Next | None:
        """See `Threads.end_update`."""
        tables = self._tables
        try:
            row = tables.fenced(fence)
        except LeaseLost:
            return None
        if row.kind != "update":
            return None
        del tables.activations[row.activation_id]
        return tables.promote(
            fence.tenant, fence.thread_id, holder=row.activation_id, status=status
        )


def _record(row: ThreadRow) -> Thread:
    return Thread(
        thread_id=row.thread_id,
        status=row.status,
        metadata=row.metadata,
        config={},
        error=None if row.error is None else dict(row.error),
        temporary=False,
        created_at=moment(row.created_at),
        updated_at=moment(row.created_at),
        state_updated_at=moment(row.created_at),
    )
