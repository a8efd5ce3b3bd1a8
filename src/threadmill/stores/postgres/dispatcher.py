"""The working side in PostgreSQL: claim, begin, finish, re-open, what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from threadmill.domain.run import RunEvent, sources, target
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import InvariantViolated
from threadmill.stores.postgres.erase import erase_thread
from threadmill.stores.postgres.rows import claim_of, run_of
from threadmill.stores.postgres.runs import RUNS, add_end, add_promote, next_of
from threadmill.stores.records import Claim, Ending, Lost, Next, Retention, Run, Timer
from threadmill.streams.postgres_append import add_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.database import Database, Result, Transaction

DISPATCH = Queries(__package__, "dispatcher.sql")


class PostgresDispatcher:
    """The `Dispatcher` port.

    Args:
        database: where the schema lives.
        retention: how long a finished run's leftovers stay.
    """

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention

    async def claim(
        self, worker_id: UUID, graphs: Sequence[str], n: int, lease_seconds: float
    ) -> Sequence[Claim]:
        """See `Dispatcher.claim`."""
        async with self._database.system_tx() as tx:
            claimed = tx.add(
                DISPATCH.claim,
                worker_id=worker_id,
                graphs=list(graphs),
                n=n,
                lease_seconds=lease_seconds,
            )
        return [claim_of(row) for row in claimed.rows]

    async def begin(self, claim: Claim) -> Run:
        """See `Dispatcher.begin`."""
        async with self._database.tenant_tx(claim.tenant) as tx:
            begun = add_begin(tx, claim)
        return begun_run(claim, begun)

    async def release(
        self, fence: Fence, *, count_attempt: bool, delay_seconds: float = 0.0
    ) -> None:
        """See `Dispatcher.release`."""
        async with self._database.tenant_tx(fence.tenant) as tx:
            tx.add(
                DISPATCH.release,
                tenant=fence.tenant,
                activation_id=fence.activation_id,
                thread_id=fence.thread_id,
                token=fence.token,
                give_back=not count_attempt,
                delay_seconds=delay_seconds,
            )

    async def finish(self, fence: Fence, ending: Ending) -> Next | None:
        """See `Dispatcher.finish`."""
        async with self._database.tenant_tx(fence.tenant) as tx:
            add_close(tx, fence)
            promoted = add_ending(tx, fence, ending, self._retention)
        return next_of(promoted.one)

    async def reopen(
        self, dead: Sequence[UUID], *, backoff_seconds: float, limit: int
    ) -> Sequence[Lost]:
        """See `Dispatcher.reopen`."""
        async with self._database.system_tx() as tx:
            lost = tx.add(
                DISPATCH.reopen,
                dead=list(dead),
                backoff_seconds=backoff_seconds,
                limit=limit,
            )
        return [
            Lost(
                tenant=row["tenant_id"],
                activation_id=row["activation_id"],
                thread_id=row["thread_id"],
                run_id=row["run_id"],
                token=row["token"],
                attempt=row["attempt"],
                kind=row["kind"],
            )
            for row in lost.rows
        ]

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Timer]:
        """See `Dispatcher.due`."""
        async with self._database.system_tx() as tx:
            due = tx.add(DISPATCH.due, hold_seconds=hold_seconds, limit=limit)
        return [Timer(row["tenant_id"], row["kind"], row["ref"]) for row in due.rows]

    async def carry_out(self, timer: Timer) -> Next | None:
        """See `Dispatcher.carry_out`."""
        match timer.kind:
            case "promote":
                return await self._promote_delayed(timer)
            case "drop_thread":
                await self._drop_thread(timer)
            case "drop_events":
                async with self._database.tenant_tx(timer.tenant) as tx:
                    tx.add(DISPATCH.drop_events, tenant=timer.tenant, run_id=timer.ref)
                    _add_drop(tx, timer)
            case "drop_key":
                async with self._database.tenant_tx(timer.tenant) as tx:
                    tx.add(DISPATCH.drop_key, tenant=timer.tenant, key=timer.ref)
                    _add_drop(tx, timer)
            case _:
                msg = f"a timer of unknown kind {timer.kind}"
                raise InvariantViolated(msg)
        return None

    async def _promote_delayed(self, timer: Timer) -> Next | None:
        run_id = UUID(timer.ref)
        async with self._database.tenant_tx(timer.tenant, read_only=True) as tx:
            thread = tx.add(RUNS.thread_of, tenant=timer.tenant, run_id=run_id)
        async with self._database.tenant_tx(timer.tenant) as tx:
            promoted = None
            if thread.one is not None:
                thread_id = thread.one["thread_id"]
                tx.add(RUNS.lock_thread, tenant=timer.tenant, thread_id=thread_id)
                promoted = add_promote(tx, thread_id=thread_id, holder=None)
            _add_drop(tx, timer)
        return next_of(promoted.one) if promoted is not None else None

    async def _drop_thread(self, timer: Timer) -> None:
        thread_id = UUID(timer.ref)
        async with self._database.tenant_tx(timer.tenant) as tx:
            tx.add(RUNS.lock_thread, tenant=timer.tenant, thread_id=thread_id)
            erase_thread(tx, thread_id)
            _add_drop(tx, timer)


def add_begin(tx: Transaction, claim: Claim) -> Result:
    """Adds the begin of a claimed run; see `begun_run`."""
    run = {"tenant": claim.tenant, "run_id": claim.run_id}
    tx.add(DISPATCH.lock_run, **run)
    tx.add(
        DISPATCH.fence,
        tenant=claim.tenant,
        activation_id=claim.activation_id,
        thread_id=claim.thread_id,
        token=claim.token,
    )
    return tx.add(
        DISPATCH.begin,
        claim_attempt=claim.attempt,
        target=target(RunEvent.CLAIM).value,
        sources=[status.value for status in sources(RunEvent.CLAIM)],
        **run,
    )


def begun_run(claim: Claim, begun: Result) -> Run:
    """The run, from the result of `add_begin`."""
    if begun.one is None:
        msg = f"run {claim.run_id} has an activation but cannot run"
        raise InvariantViolated(msg)
    return run_of(begun.one)


def add_close(tx: Transaction, fence: Fence) -> None:
    """Adds the locks that an ending needs, and the end of the activation.

    The fence comes before the run's own status: a cancelled run must read as a lost
    lease here, not as a clash.
    """
    tx.add(RUNS.lock_thread, tenant=fence.tenant, thread_id=fence.thread_id)
    tx.add(DISPATCH.lock_run, tenant=fence.tenant, run_id=fence.run_id)
    tx.add(
        DISPATCH.close_activation,
        tenant=fence.tenant,
        activation_id=fence.activation_id,
        thread_id=fence.thread_id,
        token=fence.token,
    )


def add_ending(
    tx: Transaction, fence: Fence, ending: Ending, retention: Retention
) -> Result:
    """Adds what follows `add_close`: the run's end and the next one; see `next_of`."""
    if fence.run_id is None:
        msg = f"activation {fence.activation_id} belongs to no run"
        raise InvariantViolated(msg)
    add_end(
        tx,
        ending.event,
        thread_id=fence.thread_id,
        run_id=fence.run_id,
        retention=retention,
        error=ending.error,
    )
    if ending.events:
        add_events(tx, fence, ending.events)
    return add_promote(
        tx,
        thread_id=fence.thread_id,
        holder=fence.run_id,
        event=ending.event,
        error=ending.error,
    )


def _add_drop(tx: Transaction, timer: Timer) -> None:
    tx.add(DISPATCH.drop_timer, tenant=timer.tenant, kind=timer.kind, ref=timer.ref)
