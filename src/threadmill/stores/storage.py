"""Port of what threads take in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Bytes of values as they are stored, without rows and indexes.

    Args:
        checkpoints: how many there are.
        bodies: of checkpoints, with their small values.
        metadata: of checkpoints, with the names of their chunks.
        chunks: what checkpoints share, each once; of those elsewhere, the archive.
        away: what lies in a chunk store.
        writes: pending writes.
        events: of streams.
    """

    checkpoints: int = 0
    bodies: int = 0
    metadata: int = 0
    chunks: int = 0
    away: int = 0
    writes: int = 0
    events: int = 0

    @property
    def bytes(self) -> int:
        """All together."""
        return sum(self._parts().values())

    def __add__(self, other: Parts) -> Parts:
        """Both together."""
        theirs = other._parts()
        return Parts(
            checkpoints=self.checkpoints + other.checkpoints,
            **{name: n + theirs[name] for name, n in self._parts().items()},
        )

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "checkpoints": self.checkpoints,
            "bytes": self.bytes,
            "parts": self._parts(),
        }

    def _parts(self) -> dict[str, int]:
        parts = asdict(self)
        del parts["checkpoints"]
        return parts


@dataclass(frozen=True, slots=True)
class Channel:
    """What one channel takes.

    Args:
        chunks: bytes of chunks; one that several channels share counts for the first.
        inline: bytes of small values in bodies, before those are compressed.
        writes: bytes of pending writes.
    """

    chunks: int = 0
    inline: int = 0
    writes: int = 0

    def __add__(self, other: Channel) -> Channel:
        """Both together."""
        return Channel(
            self.chunks + other.chunks,
            self.inline + other.inline,
            self.writes + other.writes,
        )

    def as_json(self) -> dict[str, int]:
        """As clients and the command line see it."""
        return {"chunks": self.chunks, "inline": self.inline, "writes": self.writes}


@dataclass(frozen=True, slots=True)
class Channels:
    """What the channels of a thread, or of some threads, take.

    Args:
        by_name: of the newest checkpoints.
        unattributed: bytes of chunks that only older ones name.
    """

    by_name: Mapping[str, Channel] = field(default_factory=dict)
    unattributed: int = 0

    def __add__(self, other: Channels) -> Channels:
        """Both together."""
        none, mine, theirs = Channel(), self.by_name, other.by_name
        return Channels(
            {
                name: mine.get(name, none) + theirs.get(name, none)
                for name in sorted({*mine, *theirs})
            },
            self.unattributed + other.unattributed,
        )

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "channels": {
                name: channel.as_json() for name, channel in self.by_name.items()
            },
            "unattributed": self.unattributed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSize:
    """What a thread takes.

    Args:
        channels: None if nobody asked.
    """

    thread_id: UUID
    graph_id: str | None
    created_at: datetime
    parts: Parts = field(default_factory=Parts)
    channels: Channels | None = None

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "thread_id": str(self.thread_id),
            "graph_id": self.graph_id,
            **self.parts.as_json(),
            **(self.channels or Channels()).as_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSize:
    """What some threads of one graph take.

    Args:
        threads: how many they are.
        sampled: how many of them, the largest, were looked into for their channels.
        sampled_bytes: what these take together.
        channels: theirs.
    """

    threads: int = 0
    parts: Parts = field(default_factory=Parts)
    sampled: int = 0
    sampled_bytes: int = 0
    channels: Channels = field(default_factory=Channels)

    def plus(self, size: ThreadSize) -> GraphSize:
        """With one more thread; its channels count if somebody asked for them."""
        looked_into = size.channels is not None
        return GraphSize(
            threads=self.threads + 1,
            parts=self.parts + size.parts,
            sampled=self.sampled + looked_into,
            sampled_bytes=self.sampled_bytes + looked_into * size.parts.bytes,
            channels=self.channels + (size.channels or Channels()),
        )

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "threads": self.threads,
            **self.parts.as_json(),
            "sample": {"threads": self.sampled, "bytes": self.sampled_bytes},
            **self.channels.as_json(),
        }


class Sizes(Protocol):
    """Measures threads."""

    async def page(
        self,
        tenant: str,
        *,
        graph_id: str | None = None,
        thread_id: UUID | None = None,
        after: tuple[datetime, UUID] | None = None,
        limit: int,
    ) -> Sequence[ThreadSize]:
        """What some threads take, the newest first by when they were made.

        It reads the rows of each of them, but no values.

        Args:
            tenant: whose.
            graph_id: only threads of this graph.
            thread_id: only this thread.
            after: go on behind the thread that was made then.
            limit: how many at most.

        Raises:
            SetupError: some of it lies in a store that is not known here.
        """
        ...

    async def channels(
        self, tenant: str, thread_id: UUID, *, checkpoints: int
    ) -> Channels:
        """What each channel of a thread takes.

        It reads the bodies of the newest checkpoints, as many as `checkpoints` says:
        chunks that only older ones name are no channel's.
        """
        ...
