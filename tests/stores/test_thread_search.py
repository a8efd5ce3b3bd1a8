"""A search finds what it should, by whichever way; and none of the usual ones sorts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.plans import become_application, nodes, plan_of
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.stores.postgres.thread_search import SEARCH
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import Thread, ThreadFilter

TENANT = "default"

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1.0, 2.5, 1e20]),
    st.sampled_from(["a", "b", "1", "true", "null", "", "x" * 300, "x" * 299 + "y"]),
)
_KEYS = st.sampled_from(["user", "graph_id", "assistant_id", "k" * 300, "n"])
_NESTED = st.dictionaries(st.sampled_from(["x", "y"]), _SCALARS, max_size=2)
_METADATA = st.dictionaries(_KEYS, st.one_of(_SCALARS, _NESTED), max_size=3)
_SORTS = st.sampled_from(
    ["created_at", "updated_at", "state_updated_at", "thread_id", "status"]
)


@pytest.fixture
def threads(database: Database) -> PostgresThreads:
    return PostgresThreads(database)


def _contains(whole: Any, part: Any) -> bool:
    """As PostgreSQL's `@>`, for objects of scalars and objects."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and _contains(whole[key], value) for key, value in part.items()
        )
    numbers = (int, float)
    alike = type(whole) is type(part) or (
        type(whole) in numbers and type(part) in numbers
    )
    return alike and bool(whole == part)


def _key(thread: Thread, sort_by: str) -> Any:
    value = getattr(thread, sort_by)
    return str(value) if sort_by in {"thread_id", "status"} else value


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    made=st.lists(_METADATA, min_size=1, max_size=12),
    patches=st.lists(st.tuples(st.integers(0, 11), _METADATA), max_size=4),
    asked=st.lists(
        st.tuples(st.one_of(st.none(), _METADATA), _SORTS, st.booleans()), max_size=6
    ),
)
def test_a_search_finds_what_contains_its_filter(
    made: list[dict[str, Any]],
    patches: list[tuple[int, dict[str, Any]]],
    asked: list[tuple[dict[str, Any] | None, str, bool]],
    database_uri: str,
) -> None:
    """Whatever is asked, in whichever order; and a count counts the same."""

    async def story() -> None:
        database = Database(database_uri, name="search", limits=Limits())
        await database.open()
        try:
            await _play(PostgresThreads(database), made, patches, asked)
        finally:
            await database.close()

    asyncio.run(story())


async def _play(
    threads: PostgresThreads,
    made: list[dict[str, Any]],
    patches: list[tuple[int, dict[str, Any]]],
    asked: list[tuple[dict[str, Any] | None, str, bool]],
) -> None:
    tenant = uuid4().hex
    ids = [uuid4() for _ in made]
    for thread_id, metadata in zip(ids, made, strict=True):
        await threads.create(tenant, thread_id, metadata=metadata, if_exists="raise")
    for place, metadata in patches:
        await threads.patch(tenant, ids[place % len(ids)], metadata=metadata)
    every = [await threads.get(tenant, thread_id) for thread_id in ids]
    for asks, sort_by, descending in asked:
        only = ThreadFilter(metadata=asks)
        found = await threads.search(
            tenant, only, limit=100, sort_by=sort_by, descending=descending
        )
        wanted = [t for t in every if _contains(t.metadata, asks or {})]
        assert {t.thread_id for t in found} == {t.thread_id for t in wanted}
        keys = [_key(thread, sort_by) for thread in found]
        assert keys == sorted(keys, reverse=descending)
        assert await threads.count(tenant, only) == len(wanted)
        assert await threads.count(tenant, only, most=2) == min(2, len(wanted))


async def test_pages_show_every_thread_once(threads: PostgresThreads) -> None:
    ids = {
        (
            await threads.create(
                TENANT, uuid4(), metadata={"user": "me"}, if_exists="raise"
            )
        ).thread_id
        for _ in range(7)
    }
    every = ThreadFilter()
    for only in (every, ThreadFilter(metadata={"user": "me"})):
        for descending in (True, False):
            seen: list[UUID] = []
            for offset in range(0, 9, 3):
                page = await threads.search(
                    TENANT,
                    only,
                    limit=3,
                    offset=offset,
                    descending=descending,
                )
                seen += [thread.thread_id for thread in page]
            assert len(seen) == 7
            assert set(seen) == ids


async def test_a_status_and_ids_narrow_a_search(
    threads: PostgresThreads, database_uri: str
) -> None:
    ids = [uuid4() for _ in range(4)]
    for thread_id in ids:
        await threads.create(TENANT, thread_id, metadata={"n": 1}, if_exists="raise")
    with psycopg.connect(database_uri) as connection:
        connection.execute(
            "UPDATE threadmill.thread SET status = 'error' WHERE thread_id = ANY (%s)",
            (ids[:2],),
        )
    for metadata in (None, {"n": 1.0}):
        for sort_by in ("created_at", "state_updated_at"):
            failed = ThreadFilter(status="error", metadata=metadata)
            found = await threads.search(TENANT, failed, sort_by=sort_by)
            assert {thread.thread_id for thread in found} == set(ids[:2])
            assert await threads.count(TENANT, failed) == 2
            some = ThreadFilter(ids=ids[1:], status="error", metadata=metadata)
            found = await threads.search(TENANT, some, sort_by=sort_by)
            assert [thread.thread_id for thread in found] == [ids[1]]
            assert await threads.count(TENANT, some) == 1


# ------------------------------------------------------------------------------- plans

_FILL = """
INSERT INTO threadmill.thread (tenant_id, thread_id, metadata, created_at)
SELECT 'default', md5(n::text)::uuid,
       jsonb_build_object('graph_id', 'chat', 'user', n / 10),
       now() - n * interval '1 min'
  FROM generate_series(1, 5000) n;
ANALYZE threadmill.thread, threadmill.facet;
"""


@pytest.fixture
def application(fresh_database_uri: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        connection.execute(_FILL)
        become_application(connection)
        yield connection


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("every_newest", "thread_by_creation"),
        ("every_oldest", "thread_by_creation"),
        ("every_changed_last", "thread_by_update"),
        ("every_changed_first", "thread_by_update"),
        ("every_by_id", "thread_pkey"),
        ("every_by_id_down", "thread_pkey"),
        ("faceted_newest", "facet_by_value"),
        ("not_idle_newest", "thread_not_idle"),
    ],
)
def test_a_page_is_read_along_an_index(
    application: psycopg.Connection, name: str, index: str
) -> None:
    """So ten threads are read, of however many."""
    found = list(nodes(plan_of(application, getattr(SEARCH, name))))
    assert "Sort" not in {node["Node Type"] for node in found}
    scan = next(node for node in found if "Index Name" in node)
    assert scan["Index Name"] == index


@pytest.mark.parametrize("name", ["faceted_newest", "faceted_sorted", "faceted_count"])
def test_an_entry_of_the_metadata_is_looked_up_whole(
    application: psycopg.Connection, name: str
) -> None:
    found = list(nodes(plan_of(application, getattr(SEARCH, name))))
    scan = next(n for n in found if n.get("Index Name", "").startswith("facet"))
    assert all(c in scan["Index Cond"] for c in ("tenant_id =", "key =", "value ="))
