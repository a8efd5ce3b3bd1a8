"""What a transaction stores of values, which chunks it sends, and on which it relies.

A shipment is the sending of one transaction, packed before that begins. It has the
transaction verify that the chunks which it leaves out are there, by the epoch under
which they were seen.

Where values lie in a chunk store, they are there before the transaction begins, which
then stores names. Names that it relies on are looked for there as well: a store may
lose what PostgreSQL still speaks of.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from threadmill.checkpoints.chunk_store import AWAY, STAYS_BYTES_MAX
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.segments import name_of
from threadmill.checkpoints.sending import Sending
from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from threadmill.checkpoints.base import Commit, Put
    from threadmill.checkpoints.codec import Codec, WriteRow
    from threadmill.checkpoints.known import Memory
    from threadmill.checkpoints.packing import Packed
    from threadmill.drivers.postgres.database import Result, Transaction

SQL = Queries(__package__, "chunks.sql")


class Shipment(Sending):
    """The values of one transaction; see `Sending` for the other arguments.

    Attributes:
        packed: its checkpoints, in the order of the commit.
        results: its tasks' results, in the same way.

    Args:
        codec: how values are laid out.
        commit: what the transaction stores.

    Raises:
        StateUnserializable: a value cannot be stored.
    """

    def __init__(
        self,
        memory: Memory,
        codec: Codec,
        commit: Commit,
        *,
        tenant: str,
        thread_id: str,
        whole: bool = False,
        is_away: bool = False,
    ) -> None:
        super().__init__(
            memory, tenant=tenant, thread_id=thread_id, whole=whole, is_away=is_away
        )
        self._put: list[tuple[Put, Result]] = []
        self.packed: Sequence[Packed] = [self.pack(codec, put) for put in commit.puts]
        self.results: Sequence[Sequence[WriteRow]] = [
            codec.writes(writes.writes) for writes in commit.writes
        ]
        if is_away:
            self.packed = [
                replace(packed, body=self._send(packed.body)) for packed in self.packed
            ]
            self.results = [
                [self._without_large(row) for row in rows] for rows in self.results
            ]

    @property
    def relied(self) -> Collection[bytes]:
        """Names of chunks that are left out, and must be there."""
        return self._there - self._chunks.keys()

    def _without_large(self, row: WriteRow) -> WriteRow:
        """Marks stay whatever they take: they are read without the rest."""
        if row.idx < 0 or len(row.blob.data) <= STAYS_BYTES_MAX:
            return row
        return replace(row, blob=self._send(row.blob))

    def _send(self, blob: Blob) -> Blob:
        """Takes a value along as a chunk; its name, for PostgreSQL."""
        name = name_of(blob.type, blob.data)
        self._chunks[name] = blob
        return Blob(AWAY, name)

    def load(self, tx: Transaction) -> None:
        """Adds the chunks of all that was packed, and what they rely on.

        Comes before everything else that the transaction does with checkpoints.
        """
        if not self._there:
            return
        key = {"tenant": self._tenant, "thread": self._thread_id}
        tx.add(SQL.hold, **key)
        for known in self._relied.values():
            tx.add(
                SQL.rely,
                **key,
                ns=known.ns,
                epoch=known.epoch,
                checkpoint_id=known.checkpoint_id,
            )
        if self._chunks and not self.is_away:
            # In one order: who sends the same ones at the same time waits, no more.
            names = sorted(self._chunks)
            tx.add(
                SQL.send,
                **key,
                names=names,
                types=[self._chunks[name].type for name in names],
                data=[self._chunks[name].data for name in names],
            )

    def put(self, put: Put, epoch: Result) -> None:
        """The transaction stores `put`; the result will tell under which epoch."""
        self._put.append((put, epoch))

    def accepted(self) -> None:
        """The transaction has committed."""
        for put, epoch in self._put:
            if epoch.one is not None and epoch.one["gc_epoch"] is not None:
                self.remember(put, epoch.one["gc_epoch"])
