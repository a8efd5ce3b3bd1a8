"""Which chunks a transaction sends, and on which it relies.

A shipment belongs to one transaction. It packs each checkpoint against what is known of
its namespace, leaves out the chunks that are known to be there, and has the transaction
verify that they are. If they are not, the transaction is refused as a whole, and the
same is done once more by a shipment that sends everything: that is always right.

What a shipment has stored is remembered after the commit, never before: a put that
failed must leave nothing that a later one relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.checkpoints.known import Known
from threadmill.checkpoints.packing import NOTHING
from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from threadmill.checkpoints.base import Put
    from threadmill.checkpoints.codec import Codec
    from threadmill.checkpoints.compression import Blob
    from threadmill.checkpoints.known import Memory
    from threadmill.checkpoints.packing import Manifest, Packed
    from threadmill.drivers.postgres.database import Result, Transaction

SQL = Queries(__package__, "chunks.sql")


class Shipment:
    """The chunks of one transaction.

    Args:
        memory: what this process knows.
        tenant: whose the only thread is that the transaction is about.
        thread_id: that thread.
        whole: send every chunk, rely on none.
    """

    def __init__(
        self, memory: Memory, *, tenant: str, thread_id: str, whole: bool = False
    ) -> None:
        self._memory = memory
        self._tenant, self._thread_id = tenant, thread_id
        self._whole = whole
        # What the transaction makes sure of: chunks, and entries of the memory.
        self._there: set[bytes] = set()
        self._chunks: dict[bytes, Blob] = {}
        self._relied: dict[tuple[str, int], Known] = {}
        self._packed: dict[tuple[str, str], Manifest] = {}
        self._put: list[tuple[Put, Result]] = []

    def pack(self, codec: Codec, put: Put) -> Packed:
        """Packs a checkpoint; in the order of the puts, before `load`.

        Raises:
            StateUnserializable: a value cannot be stored.
        """
        known = self._memory.find(self._tenant, self._thread_id, put.ns)
        before = self._packed.get((put.ns, put.parent_id or ""))
        of_parent = before is not None
        if before is None:
            before = known.manifest if known else NOTHING
            of_parent = known is not None and known.is_at(put.ns, put.parent_id)
        there = frozenset(self._there)
        if known is not None and not self._whole:
            there |= known.manifest.names
        carried = put.untouched if of_parent else frozenset()
        packed = codec.pack(put.checkpoint, before, there, carried)
        if known is not None and not self._there.issuperset(
            name for name in packed.names if name not in packed.chunks
        ):
            self._relied[known.ns, known.epoch] = known
        self._there.update(packed.names)
        self._chunks.update(packed.chunks)
        self._packed[put.ns, put.checkpoint["id"]] = packed.manifest
        return packed

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
        if self._chunks:
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
                manifest = self._packed[put.ns, put.checkpoint["id"]]
                known = Known(
                    put.ns, put.checkpoint["id"], epoch.one["gc_epoch"], manifest
                )
                self._memory.remember(self._tenant, self._thread_id, known)
