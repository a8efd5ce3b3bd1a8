"""Which query answers a search among threads, so that very many of them cost nothing.

A search goes through an index in the order that is asked for, or narrows itself first:
by ids, by one entry of the metadata, or by a status that few threads have. What is
found that way is few, mostly, and then sorted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from threadmill.drivers.postgres.sql import Queries
from threadmill.stores.postgres.runs import jsonb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from threadmill.drivers.postgres.sql import Query
    from threadmill.stores.records import Json, ThreadFilter

SEARCH = Queries(__package__, "thread_search.sql")

# In the order of an index: what is sorted by, and whether it descends.
_WALKS: Final = {
    ("created_at", True): SEARCH.every_newest,
    ("created_at", False): SEARCH.every_oldest,
    ("updated_at", True): SEARCH.every_changed_last,
    ("updated_at", False): SEARCH.every_changed_first,
    ("thread_id", True): SEARCH.every_by_id_down,
    ("thread_id", False): SEARCH.every_by_id,
}
_NEWEST: Final = ("created_at", True)
# Runs leave these on their threads: most threads of a tenant share them.
_COMMON: Final = frozenset({"assistant_id", "graph_id"})


def page_of(
    tenant: str,
    only: ThreadFilter,
    *,
    limit: int,
    offset: int,
    sort_by: str,
    descending: bool,
) -> tuple[Query, Mapping[str, object]]:
    """The query for one page, with its parameters; see `Threads.search`."""
    order = (sort_by, descending)
    facet = _facet(only.metadata)
    walk = _WALKS.get(order)
    if only.ids is not None:
        query = SEARCH.these_sorted
    elif facet and order == _NEWEST:
        query = SEARCH.faceted_newest
    elif facet and not (walk and facet.keys() <= _COMMON):
        query = SEARCH.faceted_sorted
    elif _is_rare(only.status) and order == _NEWEST:
        query = SEARCH.not_idle_newest
    else:
        query = walk or SEARCH.every_sorted
    page = {"limit": limit, "offset": offset, "sort_by": sort_by}
    return _asked(query, tenant, only, facet, **page, descending=descending)


def count_of(
    tenant: str, only: ThreadFilter, *, most: int | None
) -> tuple[Query, Mapping[str, object]]:
    """The query that counts, with its parameters; see `Threads.count`."""
    facet = _facet(only.metadata)
    if only.ids is not None:
        query = SEARCH.these_count
    elif facet:
        query = SEARCH.faceted_count
    else:
        rare = _is_rare(only.status)
        query = SEARCH.not_idle_count if rare else SEARCH.every_count
    return _asked(query, tenant, only, facet, most=most)


def _asked(
    query: Query, tenant: str, only: ThreadFilter, facet: Json, **more: object
) -> tuple[Query, Mapping[str, object]]:
    given = {
        "tenant": tenant,
        "ids": None if only.ids is None else list(only.ids),
        "metadata": jsonb(only.metadata or None),
        "facet": jsonb(facet),
        "status": only.status,
        **more,
    }
    return query, {name: given[name] for name in query.names}


def _facet(metadata: Json | None) -> dict[str, Any]:
    """The entry that narrows a search best, as far as names tell; empty for none."""
    scalars = sorted(
        (key in _COMMON, key)
        for key, value in (metadata or {}).items()
        if value is None or isinstance(value, str | int | float)
    )
    return {key: (metadata or {})[key] for _, key in scalars[:1]}


def _is_rare(status: str | None) -> bool:
    return status not in {None, "idle"}
