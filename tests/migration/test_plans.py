"""Every query goes through an index that begins with the tenant.

So a tenant pays for its own rows only, however many others have. And of those it pays
for what the query is about: row-level security keeps a condition out of an index when
it might leak, so a harmless looking join reads all that the tenant has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.plans import Scan, become_application, plan_of, scans
from tests.migration.test_queries import files, name_of, queries_of
from threadmill.checkpoints.supersteps import SQL as FENCES
from threadmill.drivers.postgres.sql import Query
from threadmill.stores.postgres.dispatcher import DISPATCH

# Without tenants, and as many rows as there are processes or migrations.
_SMALL = {"worker", "migration"}

# Others, as those that begin a transaction, have no plan.
_PLANNED = {b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"WITH"}


# Names of columns that many rows of a tenant share.
_SHARED = {"tenant_id", "ns", "kind"}

# A tenant has one row there.
_OF_A_TENANT = {"retention"}

# What looks through all of a kind, page by page or to count them.
_LISTS = {
    ("assistants", "count"),
    ("assistants", "search"),
    ("dead_letters", "count"),
    ("dead_letters", "list"),
    ("postgres", "list_all"),
    # For ids that are no UUIDs.
    ("upkeep", "threads_of_runs"),
}

# A thousand threads of three runs, the last of which waits.
_FILL = """
INSERT INTO threadmill.thread (tenant_id, thread_id, metadata)
SELECT 'default', md5(t::text)::uuid, '{"a": 1}' FROM generate_series(1, 1000) t;
INSERT INTO threadmill.run (tenant_id, run_id, thread_id, seq, assistant_id, graph_id,
                            status, multitask_strategy, kwargs, payload, finished_at)
SELECT 'default', md5(t || '/' || n)::uuid, md5(t::text)::uuid, n, md5('a')::uuid, 'g',
       CASE n WHEN 3 THEN 'pending' ELSE 'success' END, 'enqueue', '{}', '',
       CASE n WHEN 3 THEN NULL ELSE now() END
  FROM generate_series(1, 1000) t, generate_series(1, 3) n;
INSERT INTO threadmill.activation (tenant_id, activation_id, thread_id, run_id, kind,
                                   graph_id, state, worker_id, lease_until)
SELECT tenant_id, md5(run_id::text)::uuid, thread_id, run_id, 'step', 'g', 'leased',
       md5('w')::uuid, now()
  FROM threadmill.run WHERE status = 'pending';
INSERT INTO threadmill.superstep (tenant_id, run_id, thread_id, checkpoint_id, width,
                                  remaining)
SELECT tenant_id, run_id, thread_id, 'c3', 2, 2
  FROM threadmill.run WHERE status = 'pending';
INSERT INTO threadmill.dead_letter (tenant_id, run_id, thread_id, graph_id, cause,
                                    attempts)
SELECT tenant_id, run_id, thread_id, 'g', '{}', 5 FROM threadmill.run WHERE seq = 1;
INSERT INTO threadmill.timer
SELECT tenant_id, kind, run_id::text, now()
  FROM threadmill.run, unnest(ARRAY['drop_events', 'drop_key']) kind;
INSERT INTO threadmill.idempotency (tenant_id, key, body_hash, run_id)
SELECT tenant_id, run_id::text, '', run_id FROM threadmill.run;
INSERT INTO threadmill.event
SELECT tenant_id, thread_id, seq * 10 + n, 0, run_id, 1, 1, 'values', ''
  FROM threadmill.run, generate_series(1, 3) n;
INSERT INTO threadmill.stream (tenant_id, thread_id, next_seq)
SELECT tenant_id, thread_id, 50 FROM threadmill.thread;
INSERT INTO threadmill.head
SELECT tenant_id, thread_id::text, '', 'c3', 3 FROM threadmill.thread;
INSERT INTO threadmill.checkpoint (tenant_id, thread_id, ns, checkpoint_id, parent_id,
                                   ordinal, run_id, format, body_type, body, chunks,
                                   metadata)
SELECT tenant_id, thread_id::text, '', 'c' || seq * 10 + n, '', seq * 10 + n, run_id, 2,
       'msgpack', '', ARRAY[decode(md5(n::text), 'hex')], '{}'
  FROM threadmill.run, generate_series(1, 3) n;
INSERT INTO threadmill.checkpoint_write (tenant_id, thread_id, ns, checkpoint_id,
                                         task_id, idx, channel, value_type, value)
SELECT tenant_id, thread_id, ns, checkpoint_id, 'k', 0, 'a', 'null', ''
  FROM threadmill.checkpoint;
INSERT INTO threadmill.chunk (tenant_id, thread_id, name, type, data)
SELECT tenant_id, thread_id::text, decode(md5(n::text), 'hex'), 'msgpack', ''
  FROM threadmill.thread, generate_series(1, 3) n;
ANALYZE;
"""


@pytest.fixture
def application(fresh_database_uri: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        become_application(connection)
        yield connection


def test_every_query_is_led_by_the_tenant(application: psycopg.Connection) -> None:
    loose = {
        (name_of(file), query.name, scan.table, scan.index)
        for file in files()
        for query in _planned(file)
        for scan in scans(plan_of(application, query))
        if scan.table not in _SMALL
        and not scan.table.startswith("pg_")
        and "tenant_id =" not in scan.condition
    }
    assert loose == set()


def _planned(file: Path) -> Iterator[Query]:
    for query in queries_of(file):
        if query.text.split()[0] in _PLANNED:
            yield query


def _columns(scan: Scan) -> set[str]:
    return set(re.findall(r"(\w+)\)? (?:=|<|>)", scan.condition)) - _SHARED


def _whole(application: psycopg.Connection, query: Query) -> set[tuple[str, str]]:
    """Tables of which a query reads all that a tenant has."""
    return {
        (query.name, scan.table)
        for scan in scans(plan_of(application, query))
        if scan.table not in _SMALL | _OF_A_TENANT
        and not scan.table.startswith("pg_")
        and not _columns(scan)
    }


@pytest.fixture
def filled(
    application: psycopg.Connection, fresh_database_uri: str
) -> psycopg.Connection:
    with psycopg.connect(fresh_database_uri, autocommit=True) as owner:
        owner.execute(_FILL)
    return application


_ABOUT_SOMETHING = [
    file for file in files() if file.stem not in {"thread_search", "history"}
]


def test_no_query_reads_all_that_a_tenant_has(filled: psycopg.Connection) -> None:
    filled.execute("SET enable_bitmapscan = off")
    whole = {
        (file.stem, *found)
        for file in _ABOUT_SOMETHING
        for query in _planned(file)
        if (file.stem, query.name) not in _LISTS
        for found in _whole(filled, query)
    }
    assert whole == set()


def test_a_plan_that_was_made_while_nothing_waited_finds_by_the_id(
    filled: psycopg.Connection, fresh_database_uri: str
) -> None:
    """Plans are kept, and on an empty table all indexes look alike."""
    with psycopg.connect(fresh_database_uri, autocommit=True) as owner:
        owner.execute("TRUNCATE threadmill.activation")
        owner.execute("VACUUM ANALYZE threadmill.activation")
    fences = [DISPATCH.begin, DISPATCH.begin_tasks, DISPATCH.fence]
    fences += [FENCES.fence, FENCES.fence_and_progress, FENCES.fence_and_release]
    assert set().union(*(_whole(filled, query) for query in fences)) == set()
