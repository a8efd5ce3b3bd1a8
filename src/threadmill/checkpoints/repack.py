"""Old checkpoints in the present format, in place and while everybody works.

A page is read, packed, and written back thread by thread; a row is replaced only if it
is still what was read. So servers and workers may put, prune and delete meanwhile, and
after a crash the next call goes on with what is left. No state changes: the history of
a thread reads the same before and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, Any

from threadmill.checkpoints.base import Commit, Put
from threadmill.checkpoints.known import Memory
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.rows import checkpoint_of
from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from threadmill.checkpoints.codec import Codec
    from threadmill.checkpoints.packing import Packed
    from threadmill.checkpoints.shipment import Shipment
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database, Result

SQL = Queries(__package__, "repack.sql")

# Checkpoints per transaction; each may be as large as the state.
PAGE = 32
# Checkpoints that a page is looked for among.
SCAN = 2000


@dataclass(frozen=True, slots=True)
class Repacked:
    """How far it has come.

    Args:
        checkpoints: replaced so far.
        bytes_before: what their bodies took.
        bytes_after: what their bodies and chunks take.
    """

    checkpoints: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def __add__(self, other: Repacked) -> Repacked:
        """Both together."""
        return Repacked(
            self.checkpoints + other.checkpoints,
            self.bytes_before + other.bytes_before,
            self.bytes_after + other.bytes_after,
        )


async def repack(
    database: Database,
    codec: Codec,
    tenant: str,
    *,
    page: int = PAGE,
    scan: int = SCAN,
) -> AsyncGenerator[Repacked, None]:
    """Replaces every checkpoint of the first format; says after each page how far.

    Args:
        database: opened.
        codec: reads and writes them.
        tenant: whose.
        page: checkpoints per transaction.
        scan: checkpoints of any format that are looked at for one page.

    Raises:
        Error: of the database; what was said to be done is done.
    """
    # A memory of its own: the fleet's is for threads that are at work.
    store = PostgresCheckpoints(database, codec, Memory())
    done = Repacked()
    after: dict[str, object] = {
        "after_thread": "",
        "after_ns": "",
        "after_ordinal": 0,
    }
    while True:
        async with database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                SQL.whole_page, tenant=tenant, limit=page, scan=scan, **after
            )
            looked_at = tx.add(SQL.looked_at, tenant=tenant, scan=scan, **after)
        for thread_id, rows in groupby(found.rows, lambda row: str(row["thread_id"])):
            done += await _replace(store, tenant, thread_id, list(rows))
        if found.rows:
            yield done
        last = found.rows[-1] if len(found.rows) == page else looked_at.one
        if last is None:
            return
        after = {
            "after_thread": last["thread_id"],
            "after_ns": last["ns"],
            "after_ordinal": last["ordinal"],
        }


async def _replace(
    store: PostgresCheckpoints, tenant: str, thread_id: str, rows: Sequence[Row]
) -> Repacked:
    puts = [_put_of(store.codec, row) for row in rows]

    async def transact(shipment: Shipment) -> list[tuple[Row, Packed, Result]]:
        sent = []
        async with store.database.tenant_tx(tenant) as tx:
            shipment.load(tx)
            for row, put, packed in zip(rows, puts, shipment.packed, strict=True):
                replaced = tx.add(
                    SQL.replace_whole,
                    tenant=tenant,
                    thread=thread_id,
                    ns=row["ns"],
                    checkpoint_id=row["checkpoint_id"],
                    digest=sha256(row["value"]).digest(),
                    format=packed.format,
                    body_type=packed.body.type,
                    body=packed.body.data,
                    chunks=list(packed.names),
                )
                shipment.put(put, replaced)
                sent.append((row, packed, replaced))
        return sent

    sent = await store.shipping(tenant, thread_id, Commit(puts=puts), transact)
    done = [(row, packed) for row, packed, replaced in sent if replaced.rows]
    return Repacked(
        len(done),
        sum(len(row["value"]) for row, _ in done),
        sum(
            len(packed.body.data)
            + sum(len(chunk.data) for chunk in packed.chunks.values())
            for _, packed in done
        ),
    )


def _put_of(codec: Codec, row: Row) -> Put:
    checkpoint, _ = checkpoint_of(codec, row, {})
    metadata: Any = {}
    return Put(row["ns"], checkpoint, metadata, row["parent_id"])
