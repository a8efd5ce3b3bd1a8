"""The working side in PostgreSQL: claim, begin, finish, re-open, what is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from threadmill.domain.run import RunEvent, sources, target
from threadmill.drivers.postgres.sql import Queries, Query
from threadmill.errors import Conflict, InvariantViolated
from threadmill.stores.postgres.dead_letters import add_dead_letter
from threadmill.stores.postgres.erase import erase_thread
from threadmill.stores.postgres.rows import claim_of, run_of
from threadmill.stores.postgres.runs import RUNS, add_end, add_promote, next_of
from threadmill.stores.postgres.threads import THREADS
from threadmill.stores.records import (
    Claim,
    Ending,
    Finished,
    FreeSlot,
    Lost,
    Next,
    Retention,
    Run,
    Superstep,
    Timer,
)
from threadmill.streams.postgres_append import STREAM, add_events
from threadmill.streams.relay import NoRelay, appended_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.database import Database, Result, Transaction
    from threadmill.streams.relay import Appended, Relay

DISPATCH = Queries(__package__, "dispatcher.sql")


class PostgresDispatcher:
    """The `Dispatcher` port.

    Args:
        database: where the schema lives.
        retention: how long a finished run's leftovers stay.
        relay: told how runs end, and which threads are deleted.
    """

    def __init__(
        self, database: Database, retention: Retention, relay: Relay | None = None
    ) -> None:
        self._database = database
        self._retention = retention
        self._relay = relay or NoRelay()

    async def claim(
        self,
        worker_id: UUID,
        graphs: Sequence[str],
        n: int,
        lease_seconds: float,
        *,
        labels: Sequence[str] = (),
        of: Superstep | None = None,
        tasks: bool = True,
    ) -> Sequence[Claim]:
        """See `Dispatcher.claim`."""
        slot = FreeSlot(
            worker_id=worker_id,
            graphs=graphs,
            labels=labels,
            tasks=tasks,
            lease_seconds=lease_seconds,
        )
        async with self._database.system_tx() as tx:
            claimed = add_claim(tx, slot, n=n, of=of)
        return [claim_of(row) for row in claimed.rows]

    async def begin(self, claim: Claim) -> Run:
        """See `Dispatcher.begin`."""
        async with self._database.tenant_tx(claim.tenant) as tx:
            begun = add_begin(tx, claim)
        return begun_run(claim, begun)

    async def release(
        self,
        fence: Fence,
        *,
        count_attempt: bool,
        delay_seconds: float = 0.0,
        cause: str | None = None,
        shun_seconds: float = 0.0,
    ) -> None:
        """See `Dispatcher.release`."""
        async with self._database.tenant_tx(fence.tenant) as tx:
            tx.add(
                DISPATCH.release,
                tenant=fence.tenant,
                thread_id=fence.thread_id,
                give_back=not count_attempt,
                delay_seconds=delay_seconds,
                cause=cause,
                shun_seconds=shun_seconds,
                **_rights(fence),
            )

    async def finish(self, fence: Fence, ending: Ending) -> Finished:
        """See `Dispatcher.finish`."""
        async with self._database.tenant_tx(fence.tenant) as tx:
            closed = add_close(tx, fence)
            ended = add_ending(tx, fence, ending, self._retention)
        await self._relay.tell(ended.appended(fence, ending))
        return finished(closed, ended.promoted)

    async def reopen(
        self,
        dead: Sequence[UUID],
        *,
        backoff_seconds: float,
        limit: int,
        shun_seconds: float = 0.0,
    ) -> Sequence[Lost]:
        """See `Dispatcher.reopen`."""
        async with self._database.system_tx() as tx:
            lost = tx.add(
                DISPATCH.reopen,
                dead=list(dead),
                backoff_seconds=backoff_seconds,
                shun_seconds=shun_seconds,
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
                node=row["node"],
                cause=row["cause"],
            )
            for row in lost.rows
        ]

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Timer]:
        """See `Dispatcher.due`."""
        async with self._database.system_tx() as tx:
            due = tx.add(DISPATCH.due, hold_seconds=hold_seconds, limit=limit)
        return [
            Timer(row["tenant_id"], row["kind"], row["ref"], row["held_until"])
            for row in due.rows
        ]

    async def carry_out(self, timers: Sequence[Timer]) -> Sequence[Next]:
        """See `Dispatcher.carry_out`."""
        goes_on: list[Next] = []
        for timer in timers:
            match timer.kind:
                case "promote":
                    goes_on += await self._promote_delayed(timer)
                case "drop_thread":
                    await self._drop_thread(timer)
                case "drop_events" | "drop_key":
                    pass
                case _:
                    msg = f"a timer of unknown kind {timer.kind}"
                    raise InvariantViolated(msg)
        await self._drop_expired(DISPATCH.drop_events, "drop_events", timers)
        await self._drop_expired(DISPATCH.drop_keys, "drop_key", timers)
        return goes_on

    async def _drop_expired(
        self, query: Query, kind: str, timers: Sequence[Timer]
    ) -> None:
        """Deletes what the timers of one kind are for, tenant by tenant."""
        for tenant in {timer.tenant for timer in timers if timer.kind == kind}:
            due = [t for t in timers if (t.tenant, t.kind) == (tenant, kind)]
            refs, untils = [t.ref for t in due], [t.held_until for t in due]
            async with self._database.tenant_tx(tenant) as tx:
                tx.add(query, tenant=tenant, refs=refs, untils=untils)

    async def _promote_delayed(self, timer: Timer) -> Sequence[Next]:
        run_id = UUID(timer.ref)
        async with self._database.tenant_tx(timer.tenant, read_only=True) as tx:
            thread = tx.add(RUNS.thread_of, tenant=timer.tenant, run_id=run_id)
        async with self._database.tenant_tx(timer.tenant) as tx:
            promoted = None
            if thread.one is not None:
                thread_id = thread.one["thread_id"]
                tx.add(RUNS.lock_thread, tenant=timer.tenant, thread_id=thread_id)
                promoted = add_promote(tx, thread_id=thread_id, holder=None)
            _add_drop(tx, timer.kind, [timer.ref])
        goes_on = next_of(promoted.one) if promoted is not None else None
        return [] if goes_on is None else [goes_on]

    async def _drop_thread(self, timer: Timer) -> None:
        """Erases a stateless run's thread, unless somebody uses it again."""
        where = {"tenant": timer.tenant, "thread_id": UUID(timer.ref)}
        async with self._database.tenant_tx(timer.tenant, read_only=True) as tx:
            found = tx.add(THREADS.get, **where)
        kept = found.one is None or not found.one["temporary"]
        try:
            async with self._database.tenant_tx(timer.tenant) as tx:
                if not kept:
                    tx.add(RUNS.lock_thread, **where)
                    tx.add(DISPATCH.still_temporary, **where)
                    erase_thread(tx, UUID(timer.ref))
                _add_drop(tx, timer.kind, [timer.ref])
        except Conflict:
            return  # the timer comes up again
        if not kept:
            await self._relay.forget(timer.tenant, UUID(timer.ref))


def add_claim(
    tx: Transaction, slot: FreeSlot, *, n: int = 1, of: Superstep | None = None
) -> Result:
    """Adds a claim; see `claim_of`. It waits for nobody's locks."""
    return tx.add(
        DISPATCH.claim,
        worker_id=slot.worker_id,
        graphs=list(slot.graphs),
        labels=list(slot.labels),
        n=n,
        lease_seconds=slot.lease_seconds,
        run_id=of.run_id if of is not None else None,
        checkpoint_id=of.checkpoint_id if of is not None else None,
        tasks=slot.tasks,
    )


def add_look(tx: Transaction, run_id: UUID) -> Result:
    """Adds the read of a run that goes on where it is; see `run_of`."""
    return tx.add(
        DISPATCH.look,
        tenant=tx.tenant,
        run_id=run_id,
        status=target(RunEvent.CLAIM).value,
    )


def add_begin(tx: Transaction, claim: Claim) -> Result:
    """Adds the begin of a claimed run; see `begun_run`."""
    run = {"tenant": claim.tenant, "run_id": claim.run_id}
    own = {"activation_id": claim.activation_id, "thread_id": claim.thread_id}
    # Whether what is begun may count as an attempt of the run.
    counts = claim.kind != "task" or claim.attempt > 1
    if counts:
        tx.add(DISPATCH.lock_run, **run)
    tx.add(DISPATCH.fence, tenant=claim.tenant, token=claim.token, **own)
    status = target(RunEvent.CLAIM).value
    if claim.kind == "task":
        if counts:
            tx.add(DISPATCH.count_attempt, **run, **own)
        return tx.add(DISPATCH.begin_tasks, status=status, **run, **own)
    return tx.add(
        DISPATCH.begin,
        claim_attempt=claim.attempt,
        target=status,
        sources=[source.value for source in sources(RunEvent.CLAIM)],
        **run,
        **own,
    )


def begun_run(claim: Claim, begun: Result) -> Run:
    """The run, from the result of `add_begin`."""
    if begun.one is None:
        msg = f"run {claim.run_id} has an activation but cannot run"
        raise InvariantViolated(msg)
    return run_of(begun.one)


def add_close(tx: Transaction, fence: Fence) -> Result:
    """Adds the locks that an ending needs, and the end of the activation.

    The fence comes before the run's own status: a cancelled run must read as a lost
    lease here, not as a clash.
    """
    tx.add(RUNS.lock_thread, tenant=fence.tenant, thread_id=fence.thread_id)
    tx.add(DISPATCH.lock_run_to_end, tenant=fence.tenant, run_id=fence.run_id)
    return tx.add(
        DISPATCH.close,
        tenant=fence.tenant,
        run_id=fence.run_id,
        **_rights(fence),
    )


def finished(closed: Result, promoted: Result) -> Finished:
    """What is to be told, from the results of `add_close` and `add_ending`."""
    row = closed.rows[0]
    return Finished(
        next_of(promoted.one), list(zip(row["ids"], row["tokens"], strict=True))
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """The results of an ending.

    Args:
        promoted: see `next_of`.
        numbered: of its events, if there are any.
        end: of the log.
    """

    promoted: Result
    numbered: Result | None
    end: Result

    def appended(self, fence: Fence, ending: Ending) -> Appended:
        """What a relay is told, once it has committed."""
        status = target(ending.event)
        return appended_by(
            fence, ending.events, self.numbered, status=status, end=self.end
        )


def add_ending(
    tx: Transaction, fence: Fence, ending: Ending, retention: Retention
) -> Ended:
    """Adds what follows `add_close`: the run's end and the next one."""
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
        told=bool(ending.events),
    )
    if ending.dead is not None:
        add_dead_letter(tx, fence.run_id, ending.dead)
    numbered = add_events(tx, fence, ending.events) if ending.events else None
    end = tx.add(STREAM.stream_end, tenant=tx.tenant, thread_id=fence.thread_id)
    promoted = add_promote(
        tx,
        thread_id=fence.thread_id,
        holder=fence.run_id,
        event=ending.event,
        error=ending.error,
    )
    return Ended(promoted, numbered, end)


def _rights(fence: Fence) -> dict[str, list[Any]]:
    rights = fence.rights
    return {"ids": [id_ for id_, _ in rights], "tokens": [token for _, token in rights]}


def _add_drop(tx: Transaction, kind: str, refs: Sequence[str]) -> None:
    tx.add(DISPATCH.drop_timers, tenant=tx.tenant, kind=kind, refs=refs)
