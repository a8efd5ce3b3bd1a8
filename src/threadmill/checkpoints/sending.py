"""Which chunks a commit sends, and on which it relies; no store is known.

Each checkpoint is packed against what is known of its namespace, and the chunks that
are known to be there are left out. The commit has to make sure that they are. If they
are not, it is refused as a whole, and the same is done once more with everything sent:
that is always right.

What a commit has stored is remembered after it was accepted, never before: a put that
failed must leave nothing that a later one relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.checkpoints.known import Known
from threadmill.checkpoints.packing import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from threadmill.checkpoints.base import Put
    from threadmill.checkpoints.codec import Codec
    from threadmill.checkpoints.compression import Blob
    from threadmill.checkpoints.known import Memory
    from threadmill.checkpoints.packing import Manifest, Packed


class Sending:
    """The chunks of one commit.

    Args:
        memory: what this process knows.
        tenant: whose the only thread is that the commit is about.
        thread_id: that thread.
        whole: send every chunk, rely on none.
        is_away: they go to a chunk store; what is known to be elsewhere does not help.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        tenant: str,
        thread_id: str,
        whole: bool = False,
        is_away: bool = False,
    ) -> None:
        self._memory = memory
        self._tenant, self._thread_id = tenant, thread_id
        self._whole = whole
        self.is_away = is_away
        # What the commit makes sure of: chunks, and entries of the memory.
        self._there: set[bytes] = set()
        self._chunks: dict[bytes, Blob] = {}
        self._relied: dict[tuple[str, int], Known] = {}
        self._packed: dict[tuple[str, str], Manifest] = {}

    @property
    def chunks(self) -> Mapping[bytes, Blob]:
        """What is sent, by name."""
        return self._chunks

    def pack(self, codec: Codec, put: Put) -> Packed:
        """Packs a checkpoint; in the order of the puts.

        Raises:
            StateUnserializable: a value cannot be stored.
        """
        known = self._memory.find(self._tenant, self._thread_id, put.ns)
        if known is not None and known.is_away is not self.is_away:
            known = None
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

    def remember(self, put: Put, epoch: int) -> None:
        """The store has accepted `put`, whose chunks are there under this epoch."""
        manifest = self._packed[put.ns, put.checkpoint["id"]]
        known = Known(
            put.ns, put.checkpoint["id"], epoch, manifest, is_away=self.is_away
        )
        self._memory.remember(self._tenant, self._thread_id, known)
