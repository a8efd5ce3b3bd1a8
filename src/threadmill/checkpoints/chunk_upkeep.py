"""Looks after a chunk store: drops what nobody names, copies the rest to an archive.

A transaction of PostgreSQL cannot do either, so it leaves a timer behind, and whoever
takes that does it here. Both may be done twice and be cut off anywhere.

Dropping must not meet a commit that has sent its chunks and not named them yet. So the
store is read first, then it is seen that the thread is at rest: what was on its way at
that moment was sent under a lease that is over, and is refused. Whoever begins
afterwards and sends something changes the store's generation, and nothing is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from threadmill.checkpoints.away import SQL
from threadmill.checkpoints.chunk_store import ArchiveLag
from threadmill.checkpoints.shipment import SQL as CHUNKS
from threadmill.errors import ThreadBusy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from threadmill.checkpoints.away import Away
    from threadmill.checkpoints.compression import Blob
    from threadmill.drivers.postgres.database import Database
    from threadmill.stores.records import Timer

_log = structlog.get_logger(__name__)

# Chunks that one transaction copies; each may be as large as the state.
_PAGE: Final = 64


class ChunkUpkeep:
    """The `ChunkChores` port.

    Args:
        database: where the schema lives.
        away: the store.
    """

    def __init__(self, database: Database, away: Away) -> None:
        self._database = database
        self._store = away.store
        self.archives = away.archives

    async def lag(self) -> ArchiveLag:
        """See `ChunkChores.lag`."""
        async with self._database.system_tx() as tx:
            found = tx.add(SQL.lag)
        row = found.rows[0]
        return ArchiveLag(row["threads"], row["oldest_seconds"])

    async def carry_out(self, timer: Timer) -> None:
        """See `ChunkChores.carry_out`."""
        if timer.kind == "drop_chunks":
            await self._drop(timer)
        else:
            await self._archive(timer)

    async def _drop(self, timer: Timer) -> None:
        tenant, thread = timer.tenant, timer.ref
        held = await self._store.inventory(tenant, thread)
        where = {"tenant": tenant, "thread": thread}
        try:
            async with self._database.tenant_tx(tenant) as tx:
                tx.add(SQL.require_rest, **where)
                until = tx.add(SQL.hold_timer, **where, kind=timer.kind)
                used = tx.add(SQL.used, **where)
        except ThreadBusy:
            return  # the timer comes up again
        kept = {bytes(row["name"]) for row in used.rows}
        unused = [name for name in held.sizes if name not in kept]
        dropped = await self._store.drop(
            tenant, thread, unused, generation=held.generation
        )
        if dropped and until.one is not None:
            await self._end(timer, until.one["due_at"])

    async def _archive(self, timer: Timer) -> None:
        tenant, thread = timer.tenant, timer.ref
        where = {"tenant": tenant, "thread": thread}
        async with self._database.tenant_tx(tenant) as tx:
            until = tx.add(SQL.hold_timer, **where, kind=timer.kind)
            used = tx.add(SQL.used, **where)
            archived = tx.add(SQL.archived, **where)
        there = {bytes(row["name"]) for row in archived.rows}
        missing = [n for row in used.rows if (n := bytes(row["name"])) not in there]
        for at in range(0, len(missing), _PAGE):
            await self._copy(tenant, thread, missing[at : at + _PAGE])
        if until.one is not None:
            await self._end(timer, until.one["due_at"])

    async def _copy(self, tenant: str, thread: str, names: Collection[bytes]) -> None:
        found = await self._store.find(tenant, thread, names)
        if len(found) < len(names):
            _log.error(
                "chunks.lost_before_archived",
                tenant=tenant,
                thread=thread,
                chunks=len(names) - len(found),
            )
        if found:
            await self._send(tenant, thread, found)

    async def _send(
        self, tenant: str, thread: str, found: Mapping[bytes, Blob]
    ) -> None:
        names = sorted(found)
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(CHUNKS.hold, tenant=tenant, thread=thread)
            tx.add(
                CHUNKS.send,
                tenant=tenant,
                thread=thread,
                names=names,
                types=[found[name].type for name in names],
                data=[found[name].data for name in names],
            )

    async def _end(self, timer: Timer, due_at: object) -> None:
        async with self._database.tenant_tx(timer.tenant) as tx:
            tx.add(
                SQL.end_timer,
                tenant=timer.tenant,
                kind=timer.kind,
                thread=timer.ref,
                due_at=due_at,
            )
