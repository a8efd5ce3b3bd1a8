"""Hot queries find their rows by the whole key, also under row-level security.

Security policies keep a condition out of an index when it might leak, so a harmless
looking change of a query can make it read a whole thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fixtures.plans import become_application, nodes, plan_of, scans
from threadmill.checkpoints.shipment import SQL as CHUNKS
from threadmill.checkpoints.statements import SQL
from threadmill.checkpoints.supersteps import SQL as FENCES

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
        connection.execute("SET enable_bitmapscan = off")
        become_application(connection)
        yield connection


def _missing(plan: Any, expected: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Tables and columns that an index's condition leaves out."""
    found = scans(plan)
    assert {scan.table for scan in found} == set(expected)
    return [
        (scan.table, column)
        for scan in found
        for column in expected[scan.table]
        if column not in scan.condition
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
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
    assert _missing(plan_of(application, getattr(SQL, name)), expected) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rely", {"head": _KEY, "checkpoint": _CHECKPOINT}),
        (
            "drop_unused",
            {"checkpoint": _THREAD, "checkpoint_write": _THREAD, "chunk": _THREAD},
        ),
        ("raise_epochs", {"head": _THREAD}),
        ("drop_all", {"chunk": _THREAD}),
    ],
)
def test_every_scan_for_chunks_uses_its_key(
    application: psycopg.Connection, name: str, expected: dict[str, tuple[str, ...]]
) -> None:
    assert _missing(plan_of(application, getattr(CHUNKS, name)), expected) == []


@pytest.mark.parametrize("name", ["fence", "fence_and_progress", "fence_and_release"])
def test_a_fence_finds_its_activation_by_the_key(
    application: psycopg.Connection, name: str
) -> None:
    expected: dict[str, tuple[str, ...]] = {
        "activation": ("tenant_id", "activation_id")
    }
    assert _missing(plan_of(application, getattr(FENCES, name)), expected) == []


@pytest.mark.parametrize("name", ["list_namespace", "list_all"])
def test_a_list_reads_each_of_its_chunks_by_the_whole_key(
    application: psycopg.Connection, name: str
) -> None:
    conditions = [
        scan.condition
        for scan in scans(plan_of(application, getattr(SQL, name)))
        if scan.table == "chunk"
    ]
    assert len(conditions) == 1
    assert all(column in conditions[0] for column in _CHUNK), conditions


def test_a_list_of_one_namespace_reads_along_the_ordinal(
    application: psycopg.Connection,
) -> None:
    """Newest first by the index, so that a limit of ten reads ten."""
    found = nodes(plan_of(application, SQL.list_namespace))
    limit = next(node for node in found if node["Node Type"] == "Limit")
    below = list(nodes(limit))
    assert "Sort" not in [node["Node Type"] for node in below]
    scan = next(node for node in below if node.get("Alias", "").startswith("c_"))
    assert "ordinal" in scan["Index Cond"]
    assert scan["Scan Direction"] == "Backward"
