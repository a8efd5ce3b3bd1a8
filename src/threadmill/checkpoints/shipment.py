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
        # What the transaction has made sure of: chunks, and entries of the memory.
        self._there: set[bytes] = set()
        self._relied: set[tuple[str, int]] = set()
        self._packed: dict[tuple[str, str], Manifest] = {}
        self._put: list[tuple[Put, Result]] = []

    def hold(self, tx: Transaction) -> None:
        """Comes before everything else that the transaction does with checkpoints."""
        tx.add(SQL.hold, tenant=self._tenant, thread=self._thread_id)

    def pack(self, tx: Transaction, codec: Codec, put: Put) -> Packed:
        """Packs a checkpoint, and adds its chunks to the transaction.

        The caller adds the checkpoint itself, and then tells it by `put`.

        Raises:
            StateUnserializable: a value cannot be stored.
        """
        known = self._memory.find(self._tenant, self._thread_id, put.ns)
        before = self._packed.get((put.ns, put.parent_id or ""))
        if before is None:
            before = known.manifest if known else NOTHING
        there = frozenset(self._there)
        if known is not None and not self._whole:
            there |= known.manifest.names
        packed = codec.pack(put.checkpoint, before, there)
        if known is not None and not self._there.issuperset(
            name for name in packed.names if name not in packed.chunks
        ):
            self._rely(tx, known)
        self._send(tx, packed)
        self._packed[put.ns, put.checkpoint["id"]] = packed.manifest
        return packed

    def _rely(self, tx: Transaction, known: Known) -> None:
        if (known.ns, known.epoch) in self._relied:
            return
        self._relied.add((known.ns, known.epoch))
        tx.add(
            SQL.rely,
            tenant=self._tenant,
            thread=self._thread_id,
            ns=known.ns,
            epoch=known.epoch,
            checkpoint_id=known.checkpoint_id,
        )

    def _send(self, tx: Transaction, packed: Packed) -> None:
        names = sorted(packed.chunks)  # in one order, whoever else sends them
        if names:
            tx.add(
                SQL.send,
                tenant=self._tenant,
                thread=self._thread_id,
                names=names,
                types=[packed.chunks[name].type for name in names],
                data=[packed.chunks[name].data for name in names],
            )
        self._there.update(packed.names)

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
