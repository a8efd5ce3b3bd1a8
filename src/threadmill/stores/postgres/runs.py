"""Runs in PostgreSQL: accepting, cancelling, handing a thread on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
from psycopg.types.json import Jsonb

from threadmill.domain.idempotency import stored_key
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.domain.run import RunEvent, sources, target, thread_after
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import AlreadyExists, Conflict, NotFound
from threadmill.stores.postgres.rows import PAYLOAD, run_of
from threadmill.stores.records import Accepted, Cancelled, NewRun, Next, Retention, Run
from threadmill.streams.postgres_append import STREAM
from threadmill.streams.relay import Appended, NoRelay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database, Result, Transaction
    from threadmill.streams.relay import Relay

RUNS = Queries(__package__, "runs.sql")


class PostgresRuns:
    """The accepting side's `Runs` port.

    Args:
        database: where the schema lives.
        retention: how long a finished run's leftovers stay.
        relay: told how runs end, and which are deleted.
    """

    def __init__(
        self, database: Database, retention: Retention, relay: Relay | None = None
    ) -> None:
        self._database = database
        self._retention = retention
        self._relay = relay or NoRelay()

    async def accept(self, tenant: str, new: NewRun) -> Accepted:
        """See `Runs.accept`."""
        try:
            return await self._accept(tenant, new)
        except AlreadyExists:
            if (key := new.idempotency_key) is None:
                raise
            owner = await self._owner_of(key, tenant, new)
        if owner is not None:
            return Accepted(owner, new=False)
        return await self._accept(tenant, new)  # the key has expired meanwhile

    async def _accept(self, tenant: str, new: NewRun) -> Accepted:
        async with self._database.tenant_tx(tenant) as tx:
            run = _add_accept(tx, new)
        return Accepted(run_of(run.rows[0]), new=True)

    async def _owner_of(self, key: str, tenant: str, new: NewRun) -> Run | None:
        """The run that the same request has made; None if nobody has the key."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            owner = tx.add(RUNS.key_owner, tenant=tenant, key=stored_key(key))
        if owner.one is None:
            return None
        if bytes(owner.one["body_hash"]) != new.body_hash:
            msg = "the Idempotency-Key was used with another request"
            raise Conflict(msg)
        try:
            return await self.get(tenant, owner.one["run_id"])
        except NotFound as error:
            msg = "the run that the Idempotency-Key was used for was deleted"
            raise Conflict(msg) from error

    async def get(
        self, tenant: str, run_id: UUID, thread_id: UUID | None = None
    ) -> Run:
        """See `Runs.get`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(RUNS.get, tenant=tenant, run_id=run_id, thread_id=thread_id)
        if found.one is None:
            msg = f"run {run_id} not found"
            raise NotFound(msg)
        return run_of(found.one)

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
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                RUNS.list,
                tenant=tenant,
                thread_id=thread_id,
                status=status,
                limit=limit,
                offset=offset,
            )
        return [run_of(row) for row in found.rows]

    async def cancel(self, tenant: str, thread_id: UUID, run_id: UUID) -> Cancelled:
        """See `Runs.cancel`."""
        async with self._database.tenant_tx(tenant) as tx:
            where = {"tenant": tenant, "thread_id": thread_id, "run_id": run_id}
            tx.add(RUNS.lock_thread, tenant=tenant, thread_id=thread_id)
            add_end(
                tx,
                RunEvent.CANCEL,
                thread_id=thread_id,
                run_id=run_id,
                retention=self._retention,
                refusal=NotFound.code,
            )
            tx.add(RUNS.drop_superstep, tenant=tenant, run_id=run_id)
            stopped = tx.add(RUNS.drop_activations, tenant=tenant, run_id=run_id)
            promoted = add_promote(
                tx, thread_id=thread_id, holder=run_id, event=RunEvent.CANCEL
            )
            ended = tx.add(RUNS.get, **where)
            end = tx.add(STREAM.stream_end, tenant=tenant, thread_id=thread_id)
        await self._relay.tell(
            Appended(
                tenant=tenant,
                thread_id=thread_id,
                run_id=run_id,
                status=target(RunEvent.CANCEL),
                last=end.one["seq"] if end.one is not None else 0,
            )
        )
        return Cancelled(
            run_of(ended.rows[0]),
            [(row["activation_id"], row["token"]) for row in stopped.rows],
            next_of(promoted.one),
        )

    async def delete(self, tenant: str, thread_id: UUID, run_id: UUID) -> None:
        """See `Runs.delete`."""
        where = {"tenant": tenant, "thread_id": thread_id, "run_id": run_id}
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(RUNS.lock, **where)
            tx.add(
                RUNS.delete,
                temporary_seconds=self._retention.temporary_seconds,
                **where,
            )
        await self._relay.forget(tenant, thread_id)


def _add_accept(tx: Transaction, new: NewRun) -> Result:
    if new.idempotency_key is not None:
        tx.add(
            RUNS.claim_key,
            tenant=tx.tenant,
            key=stored_key(new.idempotency_key),
            body_hash=new.body_hash,
            run_id=new.run_id,
            ttl_seconds=new.idempotency_ttl_seconds,
        )
    thread = {"tenant": tx.tenant, "thread_id": new.thread_id}
    if new.create_thread:
        tx.add(RUNS.create_thread, temporary=new.temporary, **thread)
    tx.add(RUNS.lock_thread, **thread)
    tx.add(
        RUNS.may_accept,
        reject=new.strategy is MultitaskStrategy.REJECT,
        queue_max=new.queue_max,
        **thread,
    )
    if new.from_checkpoint is not None:
        tx.add(RUNS.may_fork, checkpoint_id=new.from_checkpoint, **thread)
    return tx.add(
        RUNS.accept,
        run_id=new.run_id,
        assistant_id=new.assistant_id,
        graph_id=new.graph_id,
        strategy=new.strategy.value,
        after_seconds=new.after_seconds,
        temporary=new.temporary,
        metadata=jsonb(new.metadata),
        kwargs=jsonb({k: v for k, v in new.kwargs.items() if k not in PAYLOAD}),
        payload=orjson.dumps(
            {k: v for k, v in new.kwargs.items() if k in PAYLOAD}
        ).decode(),
        thread_metadata=jsonb(new.thread_metadata),
        labels=list(new.labels),
        **thread,
    )


def add_end(
    tx: Transaction,
    event: RunEvent,
    *,
    thread_id: UUID,
    run_id: UUID,
    retention: Retention,
    error: Mapping[str, Any] | None = None,
    told: bool = False,
    refusal: str = Conflict.code,
) -> None:
    """Adds the end of a run by `event`; `refusal` is raised if it cannot happen.

    With `told` the run leaves events behind, whatever modes it asked for.
    """
    tx.add(
        RUNS.end,
        tenant=tx.tenant,
        thread_id=thread_id,
        run_id=run_id,
        target=target(event).value,
        sources=[status.value for status in sources(event)],
        error=jsonb(error),
        refusal=refusal,
        told=told,
        events_seconds=retention.events_seconds,
        temporary_seconds=retention.temporary_seconds,
    )


def add_promote(
    tx: Transaction,
    *,
    thread_id: UUID,
    holder: UUID | None,
    event: RunEvent | None = None,
    status: str | None = None,
    error: Mapping[str, Any] | None = None,
) -> Result:
    """Adds the hand-over of a locked thread to its oldest run that may go.

    Args:
        tx: a transaction that has locked the thread.
        thread_id: the thread.
        holder: the run or update activation that gives it up; None if a free thread
            may have something to do.
        event: how the run ended; decides what a thread without a next run shows.
        status: the same, given outright; None keeps what the thread shows.
        error: shown by the thread.
    """
    if event is not None:
        status = thread_after(event, more=False).value
    return tx.add(
        RUNS.promote,
        tenant=tx.tenant,
        thread_id=thread_id,
        holder=holder,
        status=status,
        error=jsonb(error),
    )


def next_of(row: Row | None) -> Next | None:
    """The promoted run, from the row of `promote`."""
    if row is None:
        return None
    return Next(
        row["run_id"],
        row["graph_id"],
        row["tenant_id"],
        row["thread_id"],
        tuple(row["labels"]),
    )


def jsonb(value: Mapping[str, Any] | None) -> Jsonb | None:
    """A JSON parameter; None stays SQL's NULL."""
    return None if value is None else Jsonb(value, dumps=orjson.dumps)
