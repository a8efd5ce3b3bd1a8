"""Which chunks a transaction sends, and on which it relies.

A shipment is the sending of one transaction: it has the transaction verify that the
chunks which it leaves out are there, by the epoch under which they were seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.checkpoints.sending import Sending
from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from threadmill.checkpoints.base import Put
    from threadmill.checkpoints.known import Memory
    from threadmill.drivers.postgres.database import Result, Transaction

SQL = Queries(__package__, "chunks.sql")


class Shipment(Sending):
    """The chunks of one transaction; see `Sending` for the arguments."""

    def __init__(
        self, memory: Memory, *, tenant: str, thread_id: str, whole: bool = False
    ) -> None:
        super().__init__(memory, tenant=tenant, thread_id=thread_id, whole=whole)
        self._put: list[tuple[Put, Result]] = []

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
                self.remember(put, epoch.one["gc_epoch"])
