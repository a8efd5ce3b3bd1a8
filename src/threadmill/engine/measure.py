"""Use-case: which threads and graphs take how much, and which of their channels.

Measuring reads what it measures, so one call is bounded: so many threads are summed up,
the largest of these are shown, and of those, and of a few more for the sake of their
graphs, the newest checkpoints are looked into.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from threadmill.engine.cursors import cursor_of, digest_of, place_of
from threadmill.errors import NotFound
from threadmill.stores.storage import GraphSize

if TYPE_CHECKING:
    from threadmill.stores.storage import Sizes, ThreadSize

SHOWN_MAX: Final = 100
SCAN_MAX: Final = 2000
# Threads per statement.
_PAGE: Final = 50
# Checkpoints that are looked into for the channels of one thread: of one among others,
# and of the only one that is asked for.
_LOOKED_INTO: Final = 100
_LOOKED_INTO_ALONE: Final = 5000
# Threads that are looked into for the channels of their graphs, of all graphs together.
_SAMPLED: Final = 20
# Threads are walked along by when they were made.
_PLACE: Final = (datetime, UUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What some threads take.

    Args:
        threads: the largest of them, with their channels.
        graphs: what the threads of each graph take, with the channels of its largest;
            "" are those without one.
        scanned: how many threads were summed up.
        cursor: for those that were not; None when there are no more.
    """

    threads: Sequence[ThreadSize]
    graphs: Mapping[str, GraphSize]
    scanned: int
    cursor: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "threads": [thread.as_json() for thread in self.threads],
            "graphs": {graph: size.as_json() for graph, size in self.graphs.items()},
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
        threads = await self._with_channels(
            tenant, found, {thread_id}, checkpoints=_LOOKED_INTO_ALONE
        )
        return Measured(threads=threads, graphs=_by_graph(threads), scanned=1)

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
        place = None if cursor is None else place_of(cursor, digest, parts=_PLACE)
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
        largest = sorted(sizes, key=lambda size: -size.parts.bytes)
        sample = {size.thread_id for size in (*largest[:shown], *_sample(largest))}
        threads = await self._with_channels(
            tenant, largest, sample, checkpoints=_LOOKED_INTO
        )
        return Measured(
            threads=threads[:shown],
            graphs=_by_graph(threads),
            scanned=len(sizes),
            cursor=cursor_of(place, digest) if more and place is not None else None,
        )

    async def _with_channels(
        self,
        tenant: str,
        sizes: Sequence[ThreadSize],
        sample: Container[UUID],
        *,
        checkpoints: int,
    ) -> Sequence[ThreadSize]:
        """The same, those of the sample with their channels."""
        return [
            replace(
                size,
                channels=await self._sizes.channels(
                    tenant, size.thread_id, checkpoints=checkpoints
                ),
            )
            if size.thread_id in sample
            else size
            for size in sizes
        ]


def _sample(largest: Sequence[ThreadSize]) -> Sequence[ThreadSize]:
    """The largest thread of every graph, then the second of each, and so on.

    So each graph is judged by its largest threads, whatever other graphs have.
    """
    ranks = Counter[str | None]()
    ranked = []
    for size in largest:
        ranked.append((ranks[size.graph_id], size))
        ranks[size.graph_id] += 1
    return [size for _, size in sorted(ranked, key=lambda one: one[0])][:_SAMPLED]


def _by_graph(sizes: Sequence[ThreadSize]) -> Mapping[str, GraphSize]:
    graphs: defaultdict[str, GraphSize] = defaultdict(GraphSize)
    for size in sizes:
        graphs[size.graph_id or ""] = graphs[size.graph_id or ""].plus(size)
    return dict(graphs)
