"""Looks after a chunk store: drops what nobody names, copies the rest to an archive.

A transaction of PostgreSQL cannot do either, so it leaves a chore behind, and whoever
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
from threadmill.checkpoints.chunk_store import ArchiveLag, Chore
from threadmill.checkpoints.shipment import SQL as CHUNKS
from threadmill.errors import ChunksDropped, InvariantViolated, ThreadBusy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from threadmill.checkpoints.away import Away
    from threadmill.checkpoints.compression import Blob
    from threadmill.drivers.postgres.database import Database

_log = structlog.get_logger(__name__)

# Chunks that one transaction copies; each may be as large as the state.
_PAGE: Final = 16
# Threads that a loss was told of; after that many, it may be told of again.
_TOLD_MAX: Final = 10_000


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
        self._told: set[tuple[str, str]] = set()

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Chore]:
        """See `ChunkChores.due`."""
        async with self._database.system_tx() as tx:
            found = tx.add(SQL.chores, hold_seconds=hold_seconds, limit=limit)
        return [
            Chore(row["tenant_id"], row["thread_id"], row["kind"], row["due_at"])
            for row in found.rows
        ]

    async def carry_out(self, chore: Chore) -> None:
        """See `ChunkChores.carry_out`."""
        match chore.kind:
            case "drop":
                await self._drop(chore)
            case "archive":
                await self._archive(chore)
            case _:
                msg = f"a chore of unknown kind {chore.kind}"
                raise InvariantViolated(msg)

    async def lag(self) -> ArchiveLag:
        """See `ChunkChores.lag`."""
        async with self._database.system_tx() as tx:
            found = tx.add(SQL.lag)
        row = found.rows[0]
        return ArchiveLag(row["threads"], row["oldest_seconds"])

    async def _drop(self, chore: Chore) -> None:
        tenant, thread = chore.tenant, chore.thread_id
        # The order is the argument; see above.
        held = await self._store.inventory(tenant, thread)
        where = {"tenant": tenant, "thread": thread}
        try:
            async with self._database.tenant_tx(tenant) as tx:
                tx.add(SQL.require_rest, **where)
                used = tx.add(SQL.used, **where)
        except ThreadBusy:
            return  # the chore comes up again
        kept = {bytes(row["name"]) for row in used.rows}
        unused = [name for name in held.sizes if name not in kept]
        if await self._store.drop(tenant, thread, unused, generation=held.generation):
            await self._end(chore)

    async def _archive(self, chore: Chore) -> None:
        tenant, thread = chore.tenant, chore.thread_id
        where = {"tenant": tenant, "thread": thread}
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            looked = tx.add(SQL.seen, **where)
            used = tx.add(SQL.used, **where)
            archived = tx.add(SQL.archived, **where)
        there = {bytes(row["name"]) for row in archived.rows}
        missing = [n for row in used.rows if (n := bytes(row["name"])) not in there]
        seen = looked.rows[0]
        try:
            for at in range(0, len(missing), _PAGE):
                await self._copy(
                    tenant, thread, missing[at : at + _PAGE], epoch=seen["epoch"]
                )
        except ChunksDropped:
            return  # the chore comes up again
        await self._end(chore, seen["at"])

    async def _copy(
        self, tenant: str, thread: str, names: Collection[bytes], *, epoch: int
    ) -> None:
        found = await self._store.find(tenant, thread, names)
        if len(found) < len(names):
            self._tell_loss(tenant, thread)
        if found:
            await self._send(tenant, thread, found, epoch)

    def _tell_loss(self, tenant: str, thread: str) -> None:
        """Once for each thread: every later round finds the same."""
        if (tenant, thread) in self._told:
            return
        if len(self._told) >= _TOLD_MAX:
            self._told.clear()
        self._told.add((tenant, thread))
        _log.error("chunks.lost_before_archived", tenant=tenant, thread=thread)

    async def _send(
        self, tenant: str, thread: str, found: Mapping[bytes, Blob], epoch: int
    ) -> None:
        names = sorted(found)
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(CHUNKS.hold, tenant=tenant, thread=thread)
            tx.add(SQL.require_same, tenant=tenant, thread=thread, epoch=epoch)
            tx.add(
                SQL.archive,
                tenant=tenant,
                thread=thread,
                names=names,
                types=[found[name].type for name in names],
                data=[found[name].data for name in names],
            )

    async def _end(self, chore: Chore, seen_at: datetime | None = None) -> None:
        async with self._database.tenant_tx(chore.tenant) as tx:
            tx.add(
                SQL.end_chore,
                tenant=chore.tenant,
                thread=chore.thread_id,
                kind=chore.kind,
                due_at=chore.due_at,
                seen_at=seen_at,
            )
