"""Hot queries find their rows by the whole key, also under row-level security.

Security policies keep a condition out of an index when it might leak, so a harmless
looking change of a query can make it read a whole thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from threadmill.checkpoints.postgres import SQL
from threadmill.checkpoints.shipment import SQL as CHUNKS
from threadmill.drivers.postgres.sql import Queries

_KEY = ("tenant_id", "thread_id", "ns")
_CHECKPOINT = (*_KEY, "checkpoint_id")
_THREAD = ("tenant_id", "thread_id")
_CHUNK = (*_THREAD, "name")

# Twenty threads of three hundred checkpoints with two writes and one chunk each.
# Without statistics, indexes that share their first columns look alike to the planner.
_FILL = """
INSERT INTO threadmill.head
SELECT 'default', 't' || t, '', 'c300', 300 FROM generate_series(1, 20) t;
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
ANALYZE threadmill.head, threadmill.checkpoint, threadmill.checkpoint_write,
        threadmill.chunk;
"""


@pytest.fixture
def application(fresh_database_uri: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        connection.execute(_FILL)
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_bitmapscan = off")
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute("SET ROLE threadmill_app")
        connection.execute("SET threadmill.tenant = 'default'")
        yield connection


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _scans(plan: Any) -> list[tuple[str, str]]:
    """Table and index condition of every scan of a table."""
    return [
        (node["Relation Name"], node.get("Index Cond", "none"))
        for node in _nodes(plan)
        if "Scan" in node["Node Type"] and "Relation Name" in node
    ]


def _plan(application: psycopg.Connection, name: str, queries: Queries = SQL) -> Any:
    query = getattr(queries, name)
    statement = sql.Identifier(name)
    application.execute(
        sql.SQL("PREPARE {} AS ").format(statement).as_bytes() + query.positional
    )
    arguments = sql.SQL(", ").join([sql.SQL("NULL")] * len(query.names))
    explained = application.execute(
        sql.SQL("EXPLAIN (FORMAT JSON, COSTS OFF) EXECUTE {} ({})").format(
            statement, arguments
        )
    ).fetchone()
    assert explained is not None
    return explained[0][0]["Plan"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fence", {"activation": ("tenant_id", "activation_id")}),
        ("fence_and_progress", {"activation": ("tenant_id", "activation_id")}),
        ("fence_and_release", {"activation": ("tenant_id", "activation_id")}),
        ("put_next", {"head": _KEY}),
        ("put_any", {"checkpoint": _CHECKPOINT}),
        ("replace_writes", {"checkpoint_write": (*_CHECKPOINT, "task_id")}),
        (
            "get",
            {
                "head": _KEY,
                "run": ("tenant_id", "run_id"),
                "checkpoint": _CHECKPOINT,
                "checkpoint_write": _CHECKPOINT,
                "chunk": _CHUNK,
            },
        ),
        ("ancestors", {"head": _KEY, "checkpoint": _CHECKPOINT, "chunk": _CHUNK}),
        ("channel_writes", {"checkpoint_write": _CHECKPOINT}),
    ],
)
def test_every_scan_uses_the_whole_key(
    application: psycopg.Connection, name: str, expected: dict[str, tuple[str, ...]]
) -> None:
    scans = _scans(_plan(application, name))
    assert {table for table, _ in scans} == set(expected)
    for table, condition in scans:
        missing = [column for column in expected[table] if column not in condition]
        assert not missing, (table, condition)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rely", {"head": _KEY, "checkpoint": _CHECKPOINT}),
        ("drop_unused", {"checkpoint": _THREAD, "chunk": _THREAD}),
        ("raise_epochs", {"head": _THREAD}),
        ("drop_all", {"chunk": _THREAD}),
    ],
)
def test_every_scan_for_chunks_uses_its_key(
    application: psycopg.Connection, name: str, expected: dict[str, tuple[str, ...]]
) -> None:
    scans = _scans(_plan(application, name, CHUNKS))
    assert {table for table, _ in scans} == set(expected)
    for table, condition in scans:
        missing = [column for column in expected[table] if column not in condition]
        assert not missing, (table, condition)


@pytest.mark.parametrize("name", ["list_namespace", "list_all"])
def test_a_list_reads_each_of_its_chunks_by_the_whole_key(
    application: psycopg.Connection, name: str
) -> None:
    conditions = [
        condition
        for table, condition in _scans(_plan(application, name))
        if table == "chunk"
    ]
    assert len(conditions) == 1
    assert all(column in conditions[0] for column in _CHUNK), conditions


def test_a_list_of_one_namespace_reads_along_the_ordinal(
    application: psycopg.Connection,
) -> None:
    """Newest first by the index, so that a limit of ten reads ten."""
    nodes = list(_nodes(_plan(application, "list_namespace")))
    limit = next(node for node in nodes if node["Node Type"] == "Limit")
    below = list(_nodes(limit))
    assert "Sort" not in [node["Node Type"] for node in below]
    scan = next(node for node in below if node.get("Alias", "").startswith("c_"))
    assert "ordinal" in scan["Index Cond"]
    assert scan["Scan Direction"] == "Backward"
