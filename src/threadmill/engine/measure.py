"""Use-case: which threads take how much, and which of their channels.

Measuring reads what it measures, so one call is bounded: so many threads are summed up,
the largest of these are shown, and of those the newest checkpoints are looked into.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from threadmill.engine.cursors import cursor_of, digest_of, place_of
from threadmill.errors import NotFound
from threadmill.stores.storage import Parts

if TYPE_CHECKING:
    from uuid import UUID

    from threadmill.stores.storage import Sizes, ThreadSize

SHOWN_MAX: Final = 100
SCAN_MAX: Final = 2000
# Threads per statement.
_PAGE: Final = 50
# Checkpoints that are looked into for the channels of one thread: of one among others,
# and of the only one that is asked for.
_LOOKED_INTO: Final = 100
_LOOKED_INTO_ALONE: Final = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What some threads take.

    Args:
        threads: the largest of them, with their channels.
        graphs: what the threads of each graph take; "" are those without one.
        scanned: how many threads were summed up.
        cursor: for those that were not; None when there are no more.
    """

    threads: Sequence[ThreadSize]
    graphs: Mapping[str, Parts]
    scanned: int
    cursor: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "threads": [thread.as_json() for thread in self.threads],
            "graphs": {graph: parts.as_json() for graph, parts in self.graphs.items()},
            "scanned": self.scanned,
            "more": self.cursor is not None,
            "cursor": self.cursor,
        }


class Measure:
    """Measures threads.

    Args:
        sizes: reads them.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes

    async def one(self, tenant: str, thread_id: UUID) -> Measured:
        """One thread.

        Raises:
            NotFound: there is no such thread.
        """
        found = await self._sizes.page(tenant, thread_id=thread_id, limit=1)
        if not found:
            raise NotFound(f"thread {thread_id} not found")
        return Measured(
            threads=await self._with_channels(tenant, found, _LOOKED_INTO_ALONE),
            graphs=_by_graph(found),
            scanned=1,
        )

    async def __call__(
        self,
        tenant: str,
        *,
        graph_id: str | None = None,
        shown: int = 10,
        scan: int = 200,
        cursor: str | None = None,
    ) -> Measured:
        """The largest of so many threads, the newest by when they were made.

        Args:
            tenant: whose.
            graph_id: only threads of this graph.
            shown: how many of the largest are given.
            scan: how many are summed up.
            cursor: go on with those that were not.

        Raises:
            InvalidRequest: the cursor is none of this question's.
        """
        digest = digest_of(tenant, "storage", graph_id)
        place = None if cursor is None else place_of(cursor, digest, parts=2)
        sizes: list[ThreadSize] = []
        more = True
        while more and len(sizes) < scan:
            limit = min(_PAGE, scan - len(sizes))
            after = None if place is None else (place[0], place[1])
            page = await self._sizes.page(
                tenant, graph_id=graph_id, after=after, limit=limit
            )
            sizes += page
            more = len(page) == limit
            if page:
                place = (page[-1].created_at, page[-1].thread_id)
        largest = sorted(sizes, key=lambda size: -size.parts.bytes)[:shown]
        return Measured(
            threads=await self._with_channels(tenant, largest, _LOOKED_INTO),
            graphs=_by_graph(sizes),
            scanned=len(sizes),
            cursor=cursor_of(place, digest) if more and place is not None else None,
        )

    async def _with_channels(
        self, tenant: str, sizes: Sequence[ThreadSize], checkpoints: int
    ) -> Sequence[ThreadSize]:
        return [
            replace(
                size,
                channels=await self._sizes.channels(
                    tenant, size.thread_id, checkpoints=checkpoints
                ),
            )
            for size in sizes
        ]


def _by_graph(sizes: Sequence[ThreadSize]) -> Mapping[str, Parts]:
    graphs: defaultdict[str, Parts] = defaultdict(Parts)
    for size in sizes:
        graphs[size.graph_id or ""] += size.parts
    return dict(graphs)
