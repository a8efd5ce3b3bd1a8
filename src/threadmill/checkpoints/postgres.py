"""Checkpoints in PostgreSQL: every operation is one commit, in one round trip.

A commit is a single pipeline: the fence, then task results, then checkpoints with the
head's compare-and-set, then events. Whatever refuses, nothing of it becomes true. The
client takes no decision in between.

Values that grow are stored as chunks that checkpoints share. Which of them are sent is
decided before (`shipment`); a transaction that relied on a chunk which is gone is done
once more, with all of them. Values may also lie in a chunk store (`away`): a round trip
of its own takes them there before the commit, which stores their names.

The statements and the reasons for their order are in `postgres.sql`.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from threadmill.checkpoints.away import SQL as ELSEWHERE
from threadmill.checkpoints.away import bring
from threadmill.checkpoints.base import (
    Committed,
    RunState,
    Stored,
)
from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.known import Memory
from threadmill.checkpoints.listing import PAGE, listed
from threadmill.checkpoints.projection import add_values
from threadmill.checkpoints.rows import (
    checkpoint_of,
    chunks_of,
    stored_of,
    write_of,
)
from threadmill.checkpoints.shipment import SQL as CHUNKS
from threadmill.checkpoints.shipment import Shipment
from threadmill.checkpoints.statements import SQL, add_put, add_writes
from threadmill.checkpoints.supersteps import (
    add_end_of_tasks,
    add_fence,
    add_plan,
    committed,
)
from threadmill.errors import (
    ChunksDropped,
    Error,
    HeadMoved,
    InvariantViolated,
    LeaseLost,
    Unavailable,
)
from threadmill.stores.postgres.dispatcher import add_claim, add_look
from threadmill.stores.postgres.rows import claim_of, run_of
from threadmill.streams.postgres_append import add_events
from threadmill.streams.relay import NoRelay, appended_by

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Mapping,
        Sequence,
    )

    from threadmill.checkpoints.away import Away
    from threadmill.checkpoints.base import Commit
    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database, Result, Transaction
    from threadmill.stores.records import FreeSlot
    from threadmill.streams.relay import Relay

T = TypeVar("T")


class PostgresCheckpoints:
    """The `Checkpoints` port, and what savers need beyond it.

    Args:
        database: where the schema lives.
        codec: how values are laid out; its serializer is LangGraph's default.
        memory: what is known to be stored; shared by all who write here.
        indexed: the paths in its state that each graph declares.
        away: where values lie, if not here.
        relay: told of events that were appended, and of threads that were pruned.
    """

    def __init__(
        self,
        database: Database,
        codec: Codec | None = None,
        memory: Memory | None = None,
        *,
        indexed: Mapping[str, Sequence[str]] | None = None,
        away: Away | None = None,
        relay: Relay | None = None,
    ) -> None:
        self.database = database
        self.codec = codec or Codec()
        self.memory = memory or Memory()
        self.indexed = indexed or {}
        self.away = away
        self.relay = relay or NoRelay()

    def with_codec(self, codec: Codec) -> PostgresCheckpoints:
        """The same storage, read and written with another codec."""
        return PostgresCheckpoints(
            self.database,
            codec,
            self.memory,
            indexed=self.indexed,
            away=self.away,
            relay=self.relay,
        )

    async def open(self) -> None:
        """Opens the connections; whoever was given open ones need not.

        Raises:
            SetupError: the chunk store cannot be trusted with state.
            StoreUnavailable: the database or the chunk store does not answer; nothing
                is left open.
        """
        await self.database.open()
        try:
            if self.away is not None:
                await self.away.store.open()
        except BaseException:
            await self.database.close()
            raise

    async def close(self) -> None:
        """Closes the connections; safe to call twice."""
        try:
            if self.away is not None:
                await self.away.store.close()
        finally:
            await self.database.close()

    # ---------------------------------------------------------------------- writing

    async def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> Committed:
        """See `Checkpoints.commit`.

        Lock order: run, superstep, activations by id, chunks, head, stream. A slot's
        claim comes last, and waits for no lock.
        """
        return await self.shipping(
            tenant,
            thread_id,
            commit,
            lambda shipment: self._commit(tenant, thread_id, commit, fence, shipment),
        )

    async def shipping(
        self,
        tenant: str,
        thread_id: str,
        commit: Commit,
        transact: Callable[[Shipment], Awaitable[T]],
    ) -> T:
        """Carries out a transaction that stores checkpoints of one thread.

        Args:
            tenant: whose thread.
            thread_id: the thread.
            commit: what is stored.
            transact: one transaction; it is called again if chunks that it relied on
                have been dropped, and then sends all of them.

        Raises:
            StateUnserializable: a value cannot be stored.
            Error: whatever `transact` raises.
        """
        try:
            return await self._ship(tenant, thread_id, commit, transact, whole=False)
        except ChunksDropped:
            return await self._ship(tenant, thread_id, commit, transact, whole=True)

    async def _ship(
        self,
        tenant: str,
        thread_id: str,
        commit: Commit,
        transact: Callable[[Shipment], Awaitable[T]],
        *,
        whole: bool,
    ) -> T:
        store = self.away.store_of(commit.graph_id) if self.away else None
        shipment = Shipment(
            self.memory,
            self.codec,
            commit,
            tenant=tenant,
            thread_id=thread_id,
            whole=whole,
            is_away=store is not None,
        )
        if store is not None:
            await store.keep(tenant, thread_id, shipment.chunks, relied=shipment.relied)
        try:
            done = await transact(shipment)
        except (LeaseLost, HeadMoved):
            if shipment.chunks and store is not None:
                await self._drop_refused(tenant, thread_id)
            raise
        shipment.accepted()
        return done

    async def _drop_refused(self, tenant: str, thread_id: str) -> None:
        """What was sent for nothing goes later: the thread may never come this way."""
        with suppress(Unavailable):
            async with self.database.tenant_tx(tenant) as tx:
                tx.add(ELSEWHERE.drop_refused, tenant=tenant, thread=thread_id)

    async def _commit(
        self,
        tenant: str,
        thread_id: str,
        commit: Commit,
        fence: Fence | None,
        shipment: Shipment,
    ) -> Committed:
        planned = ended = taken = numbered = None
        async with self.database.tenant_tx(tenant) as tx:
            if fence is None:
                _require_unfenced(commit)
            else:
                add_fence(tx, tenant, thread_id, fence, commit)
            self.add_state(tx, thread_id, commit, fence, shipment)
            if fence is not None and commit.plan is not None:
                planned = add_plan(tx, fence, commit.plan)
            if fence is not None and commit.ended:
                ended = add_end_of_tasks(tx, fence, commit.ended)
            if commit.events and fence is not None:
                numbered = add_events(tx, fence, commit.events)
            if fence is not None and commit.slot is not None:
                taken = self._add_take(tx, fence, commit.slot)
        if fence is not None and numbered is not None:
            await self.relay.tell(appended_by(fence, commit.events, numbered))
        if fence is not None and taken is not None:
            return await self._taken(fence, *taken)
        return committed(planned, ended)

    def _add_take(
        self, tx: Transaction, fence: Fence, slot: FreeSlot
    ) -> tuple[Result, Result, Result]:
        """What is taken is most often what was released: its state is read at once."""
        assert fence.run_id is not None  # noqa: S101  # only runs are released
        return (
            add_claim(tx, slot),
            add_look(tx, fence.run_id),
            self.add_get(tx, str(fence.thread_id)),
        )

    async def _taken(
        self, fence: Fence, claimed: Result, run: Result, state: Result
    ) -> Committed:
        if claimed.one is None:
            return Committed()
        claim = claim_of(claimed.one)
        if claim.activation_id != fence.activation_id or run.one is None:
            return Committed(claimed=claim)
        try:
            stored = await self.got(fence.tenant, state)
        except Error:
            # The commit stands. Whoever has the claim now reads it once more.
            return Committed(claimed=claim)
        return Committed(claimed=claim, begun=RunState(run_of(run.one), stored))

    def add_state(
        self,
        tx: Transaction,
        thread_id: str,
        commit: Commit,
        fence: Fence | None,
        shipment: Shipment,
    ) -> None:
        """Adds task results, then checkpoints, to a transaction that holds the fence.

        Args:
            tx: of `shipment`.
            thread_id: the thread.
            commit: what to store.
            fence: the writer's.
            shipment: from `shipping`.

        """
        shipment.load(tx)
        for writes, rows in zip(commit.writes, shipment.results, strict=True):
            add_writes(tx, thread_id, writes, rows, fence)
        for put, packed in zip(commit.puts, shipment.packed, strict=True):
            shipment.put(put, add_put(tx, thread_id, put, packed, fence))
            if self.indexed:
                add_values(tx, thread_id, put, self.indexed)
        archives = self.away is not None and self.away.archives
        if archives and shipment.is_away and shipment.chunks:
            tx.add(ELSEWHERE.archive_soon, tenant=tx.tenant, thread=thread_id)

    # ---------------------------------------------------------------------- reading

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """See `Checkpoints.get`. Checkpoint and writes are of one snapshot."""
        async with self.database.tenant_tx(tenant, read_only=True) as tx:
            found = self.add_get(tx, thread_id, ns, checkpoint_id)
        return await self.got(tenant, found)

    def add_get(
        self,
        tx: Transaction,
        thread_id: str,
        ns: str = "",
        checkpoint_id: str | None = None,
        *,
        ended_run: UUID | None = None,
    ) -> Result:
        """Adds the read of one checkpoint; see `got`.

        Args:
            tx: the reader's transaction.
            thread_id: the thread.
            ns: the namespace.
            checkpoint_id: which; without it the head.
            ended_run: instead, the checkpoint that this run ended at, if it has ended.
        """
        return tx.add(
            SQL.get,
            tenant=tx.tenant,
            thread=thread_id,
            ns=ns,
            checkpoint_id=checkpoint_id,
            ended_run=ended_run,
        )

    async def got(self, tenant: str, found: Result) -> Stored | None:
        """What `add_get` has found; whoever goes on from it knows its chunks.

        Raises:
            StateLost: values that lie in a chunk store are not there any more.
        """
        rows = await self.bring(tenant, found.rows)
        seen = next(stored_of(self.codec, rows), None)
        if seen is None:
            return None
        if seen.known is not None:
            self.memory.remember(tenant, seen.stored.thread_id, seen.known)
        return seen.stored

    async def bring(
        self,
        tenant: str,
        rows: Sequence[Row],
        *,
        thread_id: str | None = None,
        leave_lost: bool = False,
    ) -> Sequence[Row]:
        """See `away.bring`."""
        return await bring(
            self.away,
            self.database,
            tenant,
            rows,
            thread_id=thread_id,
            leave_lost=leave_lost,
        )

    def list(
        self,
        tenant: str,
        thread_id: str | None,
        *,
        ns: str | None = None,
        before: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's word
        limit: int | None = None,
        checkpoint_id: str | None = None,
    ) -> AsyncGenerator[Stored, None]:
        """See `Checkpoints.list`; `checkpoint_id` narrows it to one checkpoint."""
        return listed(
            self,
            tenant,
            thread_id,
            ns=ns,
            before=before,
            matching=filter,
            limit=limit,
            checkpoint_id=checkpoint_id,
        )

    async def ancestors(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Ids and channel values of up to `PAGE` ancestors, the parent first.

        Without an id, those of the head.
        """
        async with self.database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                SQL.ancestors,
                tenant=tenant,
                thread=thread_id,
                ns=ns,
                checkpoint_id=checkpoint_id,
                limit=PAGE,
            )
        rows = await self.bring(tenant, found.rows)
        chunks = chunks_of(self.codec, rows).get(thread_id, {})
        ancestors = []
        for row in rows:
            if row["name"] is None:
                checkpoint, _ = checkpoint_of(self.codec, row, chunks)
                ancestors.append((row["checkpoint_id"], checkpoint["channel_values"]))
        return ancestors

    async def channel_writes(
        self,
        tenant: str,
        thread_id: str,
        ns: str,
        checkpoint_ids: Sequence[str],
        channels: Sequence[str],
    ) -> Mapping[str, Sequence[tuple[str, str, Any]]]:
        """Writes to some channels by checkpoint, in LangGraph's order."""
        async with self.database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                SQL.channel_writes,
                tenant=tenant,
                thread=thread_id,
                ns=ns,
                checkpoint_ids=checkpoint_ids,
                channels=channels,
            )
        writes: defaultdict[str, list[tuple[str, str, Any]]] = defaultdict(list)
        for row in await self.bring(tenant, found.rows, thread_id=thread_id):
            writes[row["checkpoint_id"]].append(write_of(self.codec, row))
        return writes

    # --------------------------------------------------------------------- deleting

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """See `Checkpoints.delete_thread`."""
        async with self.database.tenant_tx(tenant) as tx:
            for query in (
                CHUNKS.hold_alone,
                ELSEWHERE.drop_later,
                SQL.delete_heads,
                SQL.delete_checkpoints,
                SQL.delete_writes,
                SQL.delete_values,
                CHUNKS.drop_all,
            ):
                tx.add(query, tenant=tenant, thread=thread_id)


def _require_unfenced(commit: Commit) -> None:
    if (
        commit.events
        or commit.release
        or commit.progress
        or commit.plan
        or commit.ended
    ):
        msg = "events, release, progress, plan and ended tasks need a fence"
        raise InvariantViolated(msg)
