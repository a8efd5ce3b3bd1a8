"""Checkpoints whose values lie in a chunk store: which do, and how they come back.

In PostgreSQL such a checkpoint has the name of its body in the body's place, and the
names of its chunks where they always are; a large result of a task is a name as well.
A row is read as any other, then `bring` puts what the names stand for in their place.

Where a checkpoint lies is told by itself, not by a setting: threads may have some here
and some there, and whoever switches over has nothing to convert.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from threadmill.checkpoints.chunk_store import AWAY
from threadmill.checkpoints.compression import Blob
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import SetupError, StateLost, StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from threadmill.checkpoints.chunk_store import ChunkStore
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database

SQL = Queries(__package__, "away.sql")


@dataclass(frozen=True, slots=True)
class Away:
    """What this process keeps outside of PostgreSQL.

    Args:
        store: where it lies.
        stay: the graphs whose checkpoints stay in PostgreSQL.
        archives: everything is copied to PostgreSQL soon, and comes back from there
            when the store has lost it.
    """

    store: ChunkStore
    stay: frozenset[str] = frozenset()
    archives: bool = False

    def store_of(self, graph_id: str | None) -> ChunkStore | None:
        """Where the state of a graph goes; None is PostgreSQL."""
        return None if graph_id in self.stay else self.store


async def bring(
    away: Away | None,
    database: Database,
    tenant: str,
    rows: Sequence[Row],
    *,
    thread_id: str | None = None,
    leave_lost: bool = False,
) -> Sequence[Row]:
    """Rows of checkpoints and writes, with what lies elsewhere put in its place.

    Args:
        away: where it lies.
        database: has the archive.
        tenant: whose.
        rows: as they were read; they tell their thread, or it is `thread_id`.
        thread_id: see `rows`.
        leave_lost: leave out rows of which something is lost.

    Returns:
        The same rows if nothing of them lies elsewhere. Else copies, and after them a
        row for each chunk, as PostgreSQL's own chunks have.

    Raises:
        StateLost: neither the store nor the archive has it any more, and it is not to
            be left out.
        SetupError: this process knows of no such store.
    """
    wanted: defaultdict[str, set[bytes]] = defaultdict(set)
    for row in rows:
        if row["type"] == AWAY:
            wanted[_thread(row, thread_id)].update(_names(row))
    if not wanted:
        return rows
    if away is None:
        msg = (
            f"what thread {next(iter(wanted))} holds lies in Redis; set CHECKPOINT_URI"
            " as it was when that was stored"
        )
        raise SetupError(msg)
    found = {
        thread: await _found(away.store, database, tenant, thread, names)
        for thread, names in wanted.items()
    }
    there = [
        row
        for row in rows
        if row["type"] != AWAY or _names(row) <= found[_thread(row, thread_id)].keys()
    ]
    if len(there) < len(rows) and not leave_lost:
        lost = {t: sum(n not in found[t] for n in names) for t, names in wanted.items()}
        thread = max(lost, key=lambda t: lost[t])
        msg = (
            f"{lost[thread]} of {len(wanted[thread])} values that thread {thread} holds"
            " are not in Redis any more: it was flushed, or has failed over to a server"
            " that did not have them. Restore its data, or go on in a new thread"
        )
        raise StateLost(msg)
    brought = [
        _in_place(row, found[_thread(row, thread_id)]) if row["type"] == AWAY else row
        for row in there
    ]
    return [*brought, *_chunk_rows(there, found)]


def _thread(row: Row, given: str | None) -> str:
    return str(row.get("thread_id") or given)


def _names(row: Row) -> AbstractSet[bytes]:
    """What one row needs of the store."""
    return {bytes(row["value"]), *(row.get("chunks") or ())}


async def _found(
    store: ChunkStore,
    database: Database,
    tenant: str,
    thread_id: str,
    names: Collection[bytes],
) -> Mapping[bytes, Blob]:
    """What the store has of it, and the archive."""
    found = await store.find(tenant, thread_id, names)
    lost = [name for name in names if name not in found]
    if not lost:
        return found
    restored = await _from_archive(database, tenant, thread_id, lost)
    with suppress(StoreReadOnly):
        await store.keep(tenant, thread_id, restored)
    return {**found, **restored}


async def _from_archive(
    database: Database, tenant: str, thread_id: str, names: Sequence[bytes]
) -> Mapping[bytes, Blob]:
    async with database.tenant_tx(tenant, read_only=True) as tx:
        found = tx.add(SQL.from_archive, tenant=tenant, thread=thread_id, names=names)
    return {bytes(row["name"]): Blob(row["type"], row["data"]) for row in found.rows}


def _in_place(row: Row, found: Mapping[bytes, Blob]) -> Row:
    blob = found[bytes(row["value"])]
    return {**row, "type": blob.type, "value": blob.data, "is_away": True}


def _chunk_rows(
    rows: Sequence[Row], found: Mapping[str, Mapping[bytes, Blob]]
) -> Iterator[Row]:
    named: dict[tuple[str, bytes], None] = {}
    for row in rows:
        if row["type"] == AWAY and row.get("chunks"):
            named |= {(row["thread_id"], bytes(name)): None for name in row["chunks"]}
    for thread_id, name in named:
        blob = found[thread_id][name]
        yield {
            "thread_id": thread_id,
            "ordinal": None,
            "name": name,
            "type": blob.type,
            "value": blob.data,
        }
