"""Threads in PostgreSQL, as clients manage them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from threadmill.domain.fence import Fence
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import AlreadyExists, Conflict, LeaseLost, NotFound
from threadmill.stores.base import METADATA_BYTES_MAX, METADATA_KEYS_MAX
from threadmill.stores.postgres.erase import erase_thread
from threadmill.stores.postgres.rows import thread_of
from threadmill.stores.postgres.runs import add_promote, jsonb, next_of
from threadmill.stores.postgres.thread_search import count_of, page_of
from threadmill.streams.relay import NoRelay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.retention import Ttl
    from threadmill.domain.run import ThreadStatus
    from threadmill.drivers.postgres.database import Database
    from threadmill.stores.records import Json, Next, Thread, ThreadFilter
    from threadmill.streams.relay import Relay

THREADS = Queries(__package__, "threads.sql")


class PostgresThreads:
    """The `Threads` port.

    Args:
        database: where the schema lives.
        relay: told which threads are deleted.
    """

    def __init__(self, database: Database, relay: Relay | None = None) -> None:
        self._database = database
        self._relay = relay or NoRelay()

    async def create(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        metadata: Json,
        if_exists: str,
        ttl: Ttl | None = None,
    ) -> Thread:
        """See `Threads.create`."""
        where = {"tenant": tenant, "thread_id": thread_id}
        for _ in range(2):
            async with self._database.tenant_tx(tenant) as tx:
                created = tx.add(
                    THREADS.create, metadata=jsonb(metadata), **where, **_ttl(ttl)
                )
                found = tx.add(THREADS.get, **where)
            if created.one is None and if_exists != "do_nothing":
                msg = f"thread {thread_id} exists already"
                raise AlreadyExists(msg)
            if found.one is not None:
                return thread_of(found.one)
            # There was one, and somebody has deleted it between the two statements.
        msg = f"thread {thread_id} is being deleted; try again"
        raise Conflict(msg)

    async def get(self, tenant: str, thread_id: UUID) -> Thread:
        """See `Threads.get`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(THREADS.get, tenant=tenant, thread_id=thread_id)
        if found.one is None:
            raise _not_found(thread_id)
        return thread_of(found.one)

    async def patch(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        metadata: Json,
        ttl: Ttl | None = None,
    ) -> Thread:
        """See `Threads.patch`."""
        async with self._database.tenant_tx(tenant) as tx:
            patched = tx.add(
                THREADS.patch,
                tenant=tenant,
                thread_id=thread_id,
                metadata=jsonb(metadata),
                keys_max=METADATA_KEYS_MAX,
                bytes_max=METADATA_BYTES_MAX,
                keeps_ttl=ttl is None,
                **_ttl(ttl),
            )
        if patched.one is None:
            raise _not_found(thread_id)
        return thread_of(patched.one)

    async def delete(self, tenant: str, thread_id: UUID) -> None:
        """See `Threads.delete`."""
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(THREADS.lock, tenant=tenant, thread_id=thread_id)
            erased = erase_thread(tx, thread_id)
        if erased.one is None:
            raise _not_found(thread_id)
        await self._relay.forget(tenant, thread_id)

    async def search(
        self,
        tenant: str,
        only: ThreadFilter,
        *,
        limit: int = 10,
        offset: int = 0,
        sort_by: str = "created_at",
        descending: bool = True,
    ) -> Sequence[Thread]:
        """See `Threads.search`."""
        query, page = page_of(
            tenant,
            only,
            limit=limit,
            offset=offset,
            sort_by=sort_by,
            descending=descending,
        )
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(query, **page)
        return [thread_of(row) for row in found.rows]

    async def count(
        self, tenant: str, only: ThreadFilter, *, most: int | None = None
    ) -> int:
        """See `Threads.count`."""
        query, asked = count_of(tenant, only, most=most)
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            counted = tx.add(query, **asked)
        n: int = counted.rows[0]["n"]
        return n

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
        fence = Fence(
            tenant=tenant,
            thread_id=thread_id,
            activation_id=uuid4(),
            token=0,
            run_id=None,
        )
        where = {"tenant": tenant, "thread_id": thread_id}
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(THREADS.lock, **where)
            tx.add(THREADS.may_update, **where)
            begun = tx.add(
                THREADS.begin_update,
                activation_id=fence.activation_id,
                worker_id=worker_id,
                lease_seconds=lease_seconds,
                graph_id=graph_id,
                **where,
            )
        return replace(fence, token=begun.rows[0]["token"])

    async def end_update(
        self, fence: Fence, *, status: ThreadStatus | None
    ) -> Next | None:
        """See `Threads.end_update`."""
        try:
            async with self._database.tenant_tx(fence.tenant) as tx:
                tx.add(THREADS.lock, tenant=fence.tenant, thread_id=fence.thread_id)
                tx.add(
                    THREADS.end_update,
                    tenant=fence.tenant,
                    activation_id=fence.activation_id,
                    token=fence.token,
                )
                promoted = add_promote(
                    tx,
                    thread_id=fence.thread_id,
                    holder=fence.activation_id,
                    status=None if status is None else status.value,
                )
        except LeaseLost:
            return None
        return next_of(promoted.one)

    async def ping(self) -> None:
        """Proves that the database answers.

        Raises:
            Unavailable: it does not.
        """
        async with self._database.system_tx() as tx:
            tx.add(THREADS.ping)


def _ttl(ttl: Ttl | None) -> dict[str, object]:
    return {
        "ttl_minutes": None if ttl is None else ttl.minutes,
        "ttl_strategy": ttl.strategy.value if ttl is not None and ttl.minutes else None,
    }


def _not_found(thread_id: UUID) -> NotFound:
    return NotFound(f"thread {thread_id} not found")
