"""Searches of histories, rounds of retention and measuring go along their indexes.

Each of these begins with the tenant.

Security policies keep a condition out of an index when it might leak, so a harmless
looking change of a query can make it read all that a tenant has.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.fixtures.plans import become_application, nodes, plan_of, scans
from threadmill.checkpoints.projection import SQL as HISTORY
from threadmill.checkpoints.pruning import SQL as PRUNING
from threadmill.checkpoints.sizes import SQL as SIZES
from threadmill.drivers.postgres.sql import Queries
from threadmill.stores.postgres.retention import RETENTION

_KEY = ("tenant_id", "thread_id", "ns")
_CHECKPOINT = (*_KEY, "checkpoint_id")
_THREAD = ("tenant_id", "thread_id")
_CHUNK = (*_THREAD, "name")

# A tenant among others, with threads and values enough for indexes to matter.
_FILL = """
INSERT INTO threadmill.thread (tenant_id, thread_id, updated_at, ttl_minutes,
                               ttl_strategy)
SELECT 'tenant' || n % 5, md5(n::text)::uuid, now() - n * interval '1 min',
       CASE WHEN n % 10 = 0 THEN 5 END, CASE WHEN n % 10 = 0 THEN 'delete' END
  FROM generate_series(1, 5000) n;
INSERT INTO threadmill.history_value (tenant_id, thread_id, path, checkpoint_id,
                                      graph_id, value, number, changed, created_at)
SELECT 'tenant' || n % 5, md5((n % 500)::text)::uuid::text, 'p' || n % 3, 'c' || n,
       'graph', '"v' || n % 40 || '"', n, n % 3 = 0, now() - n * interval '1 s'
  FROM generate_series(1, 20000) n;
INSERT INTO threadmill.checkpoint (tenant_id, thread_id, ns, checkpoint_id, parent_id,
                                   ordinal, format, body_type, body, chunks, metadata)
SELECT 'default', 't' || t, '', 'c' || n, 'c' || n - 1, n, 2, 'msgpack', '',
       ARRAY[decode(md5(n::text), 'hex')], '{}'
  FROM generate_series(1, 20) t, generate_series(1, 300) n;
INSERT INTO threadmill.checkpoint_write (tenant_id, thread_id, ns, checkpoint_id,
                                         task_id, idx, channel, value_type, value)
SELECT 'default', 't' || t, '', 'c' || n, 'k' || k, 0, 'a', 'null', ''
  FROM generate_series(1, 20) t, generate_series(1, 300) n, generate_series(1, 2) k;
INSERT INTO threadmill.chunk (tenant_id, thread_id, name, type, data)
SELECT 'default', 't' || t, decode(md5(n::text), 'hex'), 'msgpack', ''
  FROM generate_series(1, 20) t, generate_series(1, 300) n;
ANALYZE threadmill.thread, threadmill.history_value, threadmill.checkpoint,
        threadmill.checkpoint_write, threadmill.chunk;
"""


@pytest.fixture
def application(fresh_database_uri: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        connection.execute(_FILL)
        become_application(connection)
        connection.execute("SET enable_bitmapscan = off")
        yield connection


_VALUE = ("tenant_id", "graph_id", "path")
_MEASURED = {
    "checkpoint": _THREAD,
    "chunk": _THREAD,
    "checkpoint_write": _THREAD,
    "event": _THREAD,
}


@pytest.mark.parametrize(
    ("queries", "name", "expected", "order"),
    [
        (
            HISTORY,
            "by_value",
            {"history_value": (*_VALUE, "value", "created_at")},
            True,
        ),
        (HISTORY, "by_path", {"history_value": (*_VALUE, "created_at")}, True),
        (HISTORY, "threads_by_creation", {"thread": ("tenant_id", "created_at")}, True),
        (
            HISTORY,
            "threads_by_facet",
            {"facet": ("tenant_id", "key", "value"), "thread": _THREAD},
            False,
        ),
        (HISTORY, "threads_named", {"thread": ("tenant_id",)}, False),
        (HISTORY, "newest", {"checkpoint": (*_KEY, "ordinal")}, False),
        (HISTORY, "bodies", {"checkpoint": _CHECKPOINT}, False),
        (HISTORY, "chunks", {"chunk": _CHUNK}, False),
        (
            HISTORY,
            "moments",
            {
                "checkpoint": _CHECKPOINT,
                "checkpoint_write": _CHECKPOINT,
                "run": ("tenant_id", "run_id"),
                "thread": _THREAD,
            },
            False,
        ),
        (
            HISTORY,
            "index_values",
            {
                "checkpoint": _CHECKPOINT,
                "history_value": ("tenant_id", "thread_id", "checkpoint_id", "path"),
            },
            False,
        ),
        (SIZES, "one", {"thread": _THREAD, **_MEASURED}, False),
        (SIZES, "every", {"thread": ("tenant_id", "created_at"), **_MEASURED}, False),
        (SIZES, "of_graph", {"facet": ("tenant_id", "key"), **_MEASURED}, False),
        (SIZES, "bodies", {"checkpoint": _THREAD}, False),
        (RETENTION, "idle", {"thread": ("tenant_id", "updated_at")}, True),
        (RETENTION, "idle_own", {"thread": ("tenant_id", "updated_at")}, True),
        (PRUNING, "lock_at_rest", {"thread": _THREAD}, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_searches_and_rounds_use_indexes_led_by_the_tenant(
    application: psycopg.Connection,
    queries: Queries,
    name: str,
    expected: dict[str, tuple[str, ...]],
    *,
    order: bool,
) -> None:
    """Row-level security keeps many conditions out of an index."""
    plan = plan_of(application, getattr(queries, name))
    assert {scan.table for scan in scans(plan)} == set(expected)
    for scan in scans(plan):
        wanted = expected[scan.table]
        missing = [column for column in wanted if column not in scan.condition]
        assert not missing, scan
    if order:
        # A page reads no more than it gives: nothing is sorted that was not limited.
        limit = next(node for node in nodes(plan) if node["Node Type"] == "Limit")
        assert not [node for node in nodes(limit) if node["Node Type"] == "Sort"]
