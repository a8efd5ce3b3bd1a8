"""Measures what threads take, in PostgreSQL and in the chunk store.

Bytes are of values as they are stored, compressed. Which channel a chunk belongs to
stands in bodies, which are read for that, without the values in them.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from threadmill.checkpoints.chunk_store import AWAY
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.packing import FORMAT, chunks_of_entry, entries_of
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import SetupError
from threadmill.stores.storage import Channel, Channels, Parts, ThreadSize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.checkpoints.away import Away
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database

SQL = Queries(__package__, "sizes.sql")

_LATE: Final = datetime(9999, 1, 1, tzinfo=UTC)


class PostgresSizes:
    """The `Sizes` port.

    Args:
        database: where the schema lives.
        away: what lies elsewhere; without it, that is not counted.
    """

    def __init__(self, database: Database, away: Away | None = None) -> None:
        self._database = database
        self._away = away

    async def page(
        self,
        tenant: str,
        *,
        graph_id: str | None = None,
        thread_id: UUID | None = None,
        after: tuple[datetime, UUID] | None = None,
        limit: int,
    ) -> Sequence[ThreadSize]:
        """See `Sizes.page`."""
        at, last = after or (_LATE, UUID(int=0))
        place = {"at": at, "after": last, "limit": limit}
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            if thread_id is not None:
                found = tx.add(
                    SQL.one, tenant=tenant, thread_id=thread_id, thread=str(thread_id)
                )
            elif graph_id is not None:
                found = tx.add(SQL.of_graph, tenant=tenant, graph_id=graph_id, **place)
            else:
                found = tx.add(SQL.every, tenant=tenant, **place)
        sizes = []
        for row in found.rows:
            away = await self._elsewhere(
                tenant, str(row["thread_id"]), is_away=row["is_away"]
            )
            sizes.append(_size_of(row, sum(away.values())))
        return sizes

    async def _elsewhere(
        self, tenant: str, thread_id: str, *, is_away: bool
    ) -> Mapping[bytes, int]:
        """The chunks of a thread that lie in a chunk store."""
        if not is_away:
            return {}
        if self._away is None:
            msg = f"what thread {thread_id} holds lies in Redis; set CHECKPOINT_URI"
            raise SetupError(msg)
        return (await self._away.store.inventory(tenant, thread_id)).sizes

    async def channels(
        self, tenant: str, thread_id: UUID, *, checkpoints: int
    ) -> Channels:
        """See `Sizes.channels`."""
        thread = str(thread_id)
        key = {"tenant": tenant, "thread": thread}
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            bodies = tx.add(SQL.bodies, format=FORMAT, limit=checkpoints, **key)
            chunks = tx.add(SQL.chunks, **key)
            writes = tx.add(SQL.writes, **key)
            results = tx.add(SQL.results_elsewhere, **key)
        names = [bytes(row["value"]) for row in bodies.rows if row["type"] == AWAY]
        away = await self._elsewhere(
            tenant, thread, is_away=bool(names or results.rows)
        )
        # What lies elsewhere may be here as well: as its archive.
        left = {bytes(row["name"]): row["bytes"] for row in chunks.rows}
        left.update(away)
        written = Counter({row["channel"]: row["bytes"] for row in writes.rows})
        for row in results.rows:
            written[row["channel"]] += left.pop(bytes(row["value"]), 0)
        for name in names:
            left.pop(name, None)
        brought = await self._brought(tenant, thread, names)
        shared, inline = Counter[str](), Counter[str]()
        for row in bodies.rows:
            body = brought.get(bytes(row["value"]), Blob(row["type"], row["value"]))
            if body.type == AWAY:
                continue  # it is not there any more
            for channel, entry in sorted(entries_of(body).items()):
                for chunk in chunks_of_entry(entry, row["chunks"]):
                    shared[channel] += left.pop(bytes(chunk), 0)
                if not isinstance(entry, int) and entry and isinstance(entry[0], str):
                    inline[channel] += len(entry[1])
        found = {
            name: Channel(shared[name], inline[name], written[name])
            for name in sorted({*shared, *inline, *written})
        }
        return Channels(found, sum(left.values()))

    async def _brought(
        self, tenant: str, thread: str, names: Sequence[bytes]
    ) -> Mapping[bytes, Blob]:
        if not names or self._away is None:
            return {}
        return await self._away.store.find(tenant, thread, names)


def _size_of(row: Row, away: int) -> ThreadSize:
    return ThreadSize(
        thread_id=row["thread_id"],
        graph_id=row["graph_id"],
        created_at=row["created_at"],
        parts=Parts(
            checkpoints=row["checkpoints"],
            bodies=row["bodies"],
            metadata=row["metadata"],
            chunks=row["chunks"],
            away=away,
            writes=row["writes"],
            events=row["events"],
        ),
    )
