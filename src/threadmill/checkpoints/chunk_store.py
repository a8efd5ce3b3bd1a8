"""Port of a chunk store: keeps what checkpoints hold, outside of PostgreSQL.

PostgreSQL knows which checkpoints there are, in which order, and by which names their
values go; that is where a commit becomes true. The values themselves may lie elsewhere,
each under the hash of its content. They are there before the commit that names them, so
a crash in between leaves chunks that nobody names, and never a name without its chunk.

A store does not judge who may write: what a stale worker leaves here, no checkpoint
names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from threadmill.checkpoints.compression import Blob

#: The type of a value in PostgreSQL that is only the name of a chunk elsewhere.
AWAY: Final = "away"
#: A task's result that takes no more than this stays in PostgreSQL.
STAYS_BYTES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the store has of a thread.

    Args:
        generation: changes whenever something is kept.
        sizes: bytes of every chunk, by name.
    """

    generation: int
    sizes: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class ArchiveLag:
    """How far the archive is behind the store.

    Args:
        threads: with values that it does not have yet.
        seconds: for how long the first of them has waited.
    """

    threads: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Chore:
    """What is to be done for one thread.

    Args:
        kind: `drop` what nobody names, or `archive` what is new.
        due_at: until when it is left to whoever has taken it.
    """

    tenant: str
    thread_id: str
    kind: str
    due_at: datetime


class ChunkChores(Protocol):
    """Looks after a chunk store."""

    @property
    def archives(self) -> bool:
        """Whether there is an archive."""
        ...

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Chore]:
        """Takes what is due; who dies with it loses it after `hold_seconds`."""
        ...

    async def carry_out(self, chore: Chore) -> None:
        """Does a chore, and ends it; idempotent.

        What cannot be done now comes up again.

        Raises:
            StoreUnavailable: the store or the database does not answer.
        """
        ...

    async def lag(self) -> ArchiveLag:
        """How far the archive is behind, for all tenants together."""
        ...


class ChunkStore(Protocol):
    """Chunks by tenant, thread and name. Every wait is bounded."""

    async def open(self) -> None:
        """Connects, on the event loop that everything else is called on.

        Raises:
            SetupError: the store cannot be trusted with state.
            StoreUnavailable: it does not answer.
        """
        ...

    async def close(self) -> None:
        """Disconnects; safe to call twice."""
        ...

    async def keep(
        self,
        tenant: str,
        thread_id: str,
        chunks: Mapping[bytes, Blob],
        *,
        relied: Collection[bytes] = (),
    ) -> None:
        """Keeps chunks, all at once; those that are there stay as they are.

        Args:
            tenant: whose.
            thread_id: the thread.
            chunks: by name, the hash of their content.
            relied: names that must be there already.

        Raises:
            ChunksDropped: one of `relied` is not there; nothing was kept.
            StoreReadOnly: the store takes nothing; nothing was kept.
            StoreUnavailable: nothing was kept, or (connection lost) it is unknown.
        """
        ...

    async def find(
        self, tenant: str, thread_id: str, names: Collection[bytes]
    ) -> Mapping[bytes, Blob]:
        """Those of these chunks that are there.

        Raises:
            StoreUnavailable: it does not answer.
        """
        ...

    async def inventory(self, tenant: str, thread_id: str) -> Inventory:
        """All that is there of a thread.

        Raises:
            StoreUnavailable: it does not answer.
        """
        ...

    async def drop(
        self,
        tenant: str,
        thread_id: str,
        names: Collection[bytes],
        *,
        generation: int,
    ) -> bool:
        """Removes chunks, unless something was kept since `generation`.

        Returns:
            Whether they are gone.

        Raises:
            StoreUnavailable: it is unknown.
        """
        ...
