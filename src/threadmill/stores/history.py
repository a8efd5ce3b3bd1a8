"""Port of the search over histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.history import Found, HistoryQuery


class Histories(Protocol):
    """Finds checkpoints by what they hold and how they came about."""

    async def search(
        self,
        tenant: str,
        query: HistoryQuery,
        *,
        after: Sequence[Any] | None = None,
        limit: int,
        scan: int,
        by_index: bool,
    ) -> Found:
        """One page of what is searched for.

        By the index, the newest comes first. Without it, threads are walked along, the
        newest first by when they were made, and each thread's checkpoints, newest
        first. Either order is that of values that never change, so what is added
        meanwhile moves nothing.

        Args:
            tenant: whose.
            query: what is searched for.
            after: the `place` of the page before: an instant, and then two texts by the
                index, a UUID and a whole number without it.
            limit: how many at most.
            scan: checkpoints looked at at most, and threads.
            by_index: the path of `query.value` is one that `query.graph_id` declares.
        """
        ...
