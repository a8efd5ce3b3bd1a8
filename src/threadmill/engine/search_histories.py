"""Use-case: search histories, one page after the other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from threadmill.engine.cursors import cursor_of, digest_of, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.domain.history import Found, HistoryQuery
    from threadmill.stores.history import Histories


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """One page.

    Args:
        found: what is on it.
        cursor: for the next one; None when there is none.
        by_index: whether an index has led to it.
    """

    found: Found
    cursor: str | None
    by_index: bool

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "items": [moment.as_json() for moment in self.found.moments],
            "scanned": self.found.scanned,
            "more": self.cursor is not None,
            "cursor": self.cursor,
            "by_index": self.by_index,
        }


class SearchHistories:
    """Searches histories.

    Args:
        histories: where they are.
        indexed: the paths that each graph declares, as far as this process knows.
    """

    def __init__(
        self, histories: Histories, indexed: Mapping[str, Sequence[str]]
    ) -> None:
        self._histories = histories
        self._indexed = indexed

    async def __call__(
        self,
        tenant: str,
        query: HistoryQuery,
        *,
        cursor: str | None = None,
        limit: int,
        scan: int,
        read_states: bool = False,
    ) -> HistoryPage:
        """One page of what the query asks for.

        Args:
            tenant: whose.
            query: what is searched for.
            cursor: of the page before.
            limit: how many at most.
            scan: how much may be looked at for it.
            read_states: do not use the index, which knows nothing of checkpoints from
                before the path was declared.

        Raises:
            InvalidRequest: the cursor is none of this query's.
        """
        value = query.value
        by_index = (
            not read_states
            and value is not None
            and query.graph_id is not None
            and value.path in self._indexed.get(query.graph_id, ())
        )
        digest = digest_of(tenant, asdict(query), by_index)
        # Along the index and along threads, see `Histories.search`.
        parts = (datetime, str, str) if by_index else (datetime, UUID, int)
        found = await self._histories.search(
            tenant,
            query,
            after=None if cursor is None else place_of(cursor, digest, parts=parts),
            limit=limit,
            scan=scan,
            by_index=by_index,
        )
        further = None if found.place is None else cursor_of(found.place, digest)
        return HistoryPage(found, further, by_index)
